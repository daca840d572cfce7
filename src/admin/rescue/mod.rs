//! `lmdb-images rescue`: brings the images back to a containerd that has lost its database, from the names in
//! a store and the blobs on containerd's disk. It copies no blob and uses no network.
//!
//! - [`wanted`]: the names to bring back; [`from_blobs`] finds names without a store, and [`choice`] reads
//!   which of them a person has chosen
//! - [`blobs`], [`manifest`], [`tree`], [`plan`]: the content of the images on disk, by the files alone;
//!   [`verify`] hashes it, [`sources`] guesses labels
//! - [`preflight`]: the checks before a rescue; [`snapshots`]: whether a snapshotter's folder is older than
//!   the database
//! - [`namespace`]: the calls: labels, a lease, blobs, names
//! - [`prepare`]: the preparation while containerd is stopped, and its way back; `steps`: its steps, each of
//!   which can be repeated; [`stopped`]: whether containerd is stopped
//! - [`report`]: the output
//!
//! The plan comes from the files alone, so a dry run shows what a run does. A blob gets its labels in the call
//! that takes it up, so it costs one call of two messages.
//!
//! A rescue may be killed at any moment and run again. A lease keeps the blobs that were taken up, a name is
//! created when all its content is there, and existing records stay.

pub(crate) mod blobs;
mod choice;
pub(crate) mod from_blobs;
pub(crate) mod manifest;
mod namespace;
pub(crate) mod plan;
pub(crate) mod preflight;
pub(crate) mod prepare;
pub(crate) mod report;
mod snapshots;
mod sources;
mod steps;
mod stopped;
pub(crate) mod tree;
mod verify;
pub(crate) mod wanted;

use std::collections::BTreeMap;
use std::path::Path;

use self::blobs::BlobFolder;
use self::namespace::NamespaceRestorer;
use self::plan::{PlannedImage, RescuePlan};
use self::preflight::Preflight;
use self::report::{ImageResult, RescueEvent, RescueOutcome, RescueSummary};
use self::wanted::Wanted;
use super::containerd::await_reply;
use super::diff::{Difference, DifferenceKind, differing_fields};
use super::export::without_times;
use super::precondition::refusal;
use super::progress;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};

/// Options of a rescue.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RescueOptions {
    /// Change nothing, and report what a run would do.
    pub(crate) dry_run: bool,
    /// Hash every blob before containerd takes it up.
    pub(crate) verify: bool,
    /// Label blobs with the repositories that they may have come from.
    pub(crate) sources: bool,
    /// Keep images of containerd that are not in the plan.
    pub(crate) merge: bool,
}

/// Rescues the containerd at `socket` with the names of the store in `root`. Calls `each` with every event of
/// the report.
///
/// # Errors
/// `FailedPrecondition` if a check fails; nothing was changed then. Any other error if containerd stops
/// answering: the changes so far stay, and the rescue can be run again.
pub(crate) async fn run(
    root: &Path,
    socket: &Path,
    options: RescueOptions,
    each: impl FnMut(RescueEvent),
) -> Result<RescueSummary> {
    let wanted = wanted::from_store(root)?;
    rescue(&wanted, Some(root), socket, options, each).await
}

/// As [`run`], with the names of a list that [`from_blobs`] wrote and a person edited.
///
/// # Errors
/// As [`run`]; `InvalidArgument` if the list is wrong.
pub(crate) async fn run_choice(
    list: &Path,
    socket: &Path,
    options: RescueOptions,
    each: impl FnMut(RescueEvent),
) -> Result<RescueSummary> {
    let wanted = choice::read(list)?;
    rescue(&wanted, None, socket, options, each).await
}

async fn rescue(
    wanted: &Wanted,
    store: Option<&Path>,
    socket: &Path,
    options: RescueOptions,
    mut each: impl FnMut(RescueEvent),
) -> Result<RescueSummary> {
    let containerd = GrpcClient::connect(socket).await?;
    let layout = await_reply(&containerd, containerd.layout()).await?;
    let missing = |what: &str| {
        Error::FailedPrecondition(format!(
            "what listens at {} does not say where its {what} is: name the socket of a containerd",
            socket.display()
        ))
    };
    let content = layout.content.as_deref().ok_or_else(|| missing("content"))?;
    let database = layout.database.as_deref().ok_or_else(|| missing("database"))?;
    let mut blobs = BlobFolder::of_content(content)?;
    let relinked = if options.dry_run { 0 } else { relink(content)? };
    let mut plan = RescuePlan::new(wanted, &blobs, options.sources);
    let preflight = Preflight {
        containerd: &containerd,
        layout: &layout,
        content,
        database,
        store,
        plan: &plan,
        merge: options.merge,
    };
    let checks = preflight.run().await?;
    checks.iter().for_each(|check| each(RescueEvent::Check(check.clone())));
    each(RescueEvent::Plan(plan.extent()));
    if let Some(refusal) = refusal(&checks) {
        return Err(refusal);
    }
    if options.verify {
        blobs.note_damaged(verify::run(&blobs, &plan));
        plan = RescuePlan::new(wanted, &blobs, options.sources);
    }
    if options.dry_run {
        return Ok(report_plan(&plan, each));
    }
    let namespaces = plan.namespaces.len() as u64;
    let mut summary = RescueSummary { namespaces, relinked, ..RescueSummary::default() };
    let progress = progress::bar("blobs", plan.extent().blobs);
    for (namespace, planned) in &plan.namespaces {
        progress.set_message(format!("namespace {namespace}"));
        let mut restoring = NamespaceRestorer {
            containerd: &containerd,
            blobs: &blobs,
            summary: &mut summary,
            progress: &progress,
            each: &mut each,
        };
        restoring.run(namespace, planned).await.map_err(|e| interrupted(&e))?;
    }
    progress.finish_and_clear();
    for (namespace, planned) in &plan.namespaces {
        for difference in compare(&containerd, namespace, &planned.images).await? {
            summary.differences += 1;
            each(RescueEvent::Difference(difference));
        }
    }
    Ok(summary)
}

/// Restores the blobs that containerd has collected since `rescue prepare` gave them second names.
fn relink(content: &Path) -> Result<u64> {
    let links = content.join(prepare::LINK_FOLDER);
    if links.is_dir() { steps::link_missing(&links, &content.join("blobs")) } else { Ok(0) }
}

fn interrupted(error: &Error) -> Error {
    Error::Unavailable(format!(
        "{error}; the rescue ended there; a lease keeps the blobs that were taken up: run it again for the rest"
    ))
}

/// Reports what a plan would do.
fn report_plan(plan: &RescuePlan, mut each: impl FnMut(RescueEvent)) -> RescueSummary {
    let mut summary = RescueSummary {
        namespaces: plan.namespaces.len() as u64,
        adopted: plan.extent().blobs,
        dry_run: true,
        ..RescueSummary::default()
    };
    for (namespace, planned) in &plan.namespaces {
        let mut report = |outcome| {
            let outcome = RescueOutcome { dry_run: true, ..outcome };
            summary.count(&outcome);
            each(RescueEvent::Outcome(outcome));
        };
        for image in &planned.images {
            let result = if image.usable { ImageResult::Restored } else { ImageResult::Lost };
            report(RescueOutcome::of_image(namespace, &image.wanted, result, image.lost.clone()));
        }
        for name in &planned.damaged {
            report(RescueOutcome::damaged(namespace, name));
        }
    }
    summary
}

/// Compares the images of containerd at the end with the images that could get their names. Their times may
/// differ, because containerd 1.6 accepts none.
async fn compare(
    containerd: &GrpcClient,
    namespace: &Namespace,
    images: &[PlannedImage],
) -> Result<Vec<Difference>> {
    let mut theirs = BTreeMap::new();
    let mut listing = containerd.images(namespace);
    while let Some(images) = await_reply(containerd, listing.next()).await? {
        for found in images {
            let found = image::normalize_record(found);
            theirs.insert(found.name.clone(), found);
        }
    }
    let usable = images.iter().filter(|image| image.usable).map(|image| &image.wanted.image);
    Ok(usable
        .filter_map(|ours| {
            let kind = match theirs.get(&ours.name) {
                None => DifferenceKind::OnlyHere,
                Some(theirs) if without_times(theirs) == without_times(ours) => return None,
                Some(theirs) => DifferenceKind::Fields(differing_fields(ours, theirs)),
            };
            let (namespace, name) = (namespace.to_string(), ours.name.clone());
            Some(Difference { namespace, name, kind })
        })
        .collect())
}
