//! `lmdb-images rescue`: gives a containerd that has lost its database its images back, from the names of
//! a store and the blobs that still lie on containerd's disk. No byte is sent or copied, and no
//! network is used.
//!
//! - [`wanted`]: the names to bring back; [`from_blobs`] finds names without a store, and [`choice`] reads
//!   which of them a person has chosen
//! - [`blobs`], [`tree`], [`plan`]: what of their content is there, by the files alone; [`verify`] hashes it,
//!   [`sources`] guesses labels
//! - [`preflight`]: what is checked before; [`peers`]: who is connected; [`snapshots`]: whether a
//!   snapshotter's folder is older than the database
//! - [`namespace`]: the calls: labels, a lease, blobs, names
//! - [`prepare`]: what is done before, while containerd is stopped, and undone; [`stopped`]: whether it is
//! - [`report`]: what is told
//!
//! The plan comes from the files, so a dry run says what a run does, and blobs get their labels in
//! the call that takes them up: a blob costs one call of two messages.
//!
//! A rescue may be killed at any moment and run again: a lease keeps what was taken up, a name is made
//! when all its content is there, and what is there already is left.

pub mod blobs;
mod choice;
pub mod from_blobs;
mod namespace;
mod peers;
pub mod plan;
pub mod preflight;
pub mod prepare;
pub mod report;
mod snapshots;
mod sources;
mod stopped;
pub mod tree;
mod verify;
pub mod wanted;

use std::collections::BTreeMap;
use std::path::Path;

use self::blobs::Blobs;
use self::namespace::Restoring;
use self::plan::{Plan, PlannedImage};
use self::preflight::Preflight;
use self::report::{Event, ImageResult, Outcome, Summary};
use self::wanted::Wanted;
use super::containerd::await_reply;
use super::diff::{Difference, DifferenceKind, differing_fields};
use super::export::without_times;
use super::progress;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};

/// Options of a rescue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Change nothing, and tell what would be done.
    pub dry_run: bool,
    /// Hash every blob before it is taken up.
    pub verify: bool,
    /// Give blobs labels that say from which repositories they may have come.
    pub sources: bool,
    /// Keep images that containerd has beside those to bring back.
    pub merge: bool,
}

/// Rescues the containerd at `socket` with the names of the store in `root`. Calls `each` for what is to
/// be told.
///
/// # Errors
/// `FailedPrecondition` if a check forbids the rescue; nothing was changed then. Otherwise if containerd
/// stops answering: what was done stays, and the rescue can be run again.
pub async fn run(
    root: &Path,
    socket: &Path,
    options: Options,
    each: impl FnMut(Event),
) -> Result<Summary> {
    let wanted = wanted::from_store(root)?;
    rescue(&wanted, Some(root), socket, options, each).await
}

/// The same with the names of a list that [`from_blobs`] wrote and a person edited.
///
/// # Errors
/// As [`run`]; `InvalidArgument` if the list is wrong.
pub async fn run_choice(
    list: &Path,
    socket: &Path,
    options: Options,
    each: impl FnMut(Event),
) -> Result<Summary> {
    let wanted = choice::read(list)?;
    rescue(&wanted, None, socket, options, each).await
}

async fn rescue(
    wanted: &Wanted,
    store: Option<&Path>,
    socket: &Path,
    options: Options,
    mut each: impl FnMut(Event),
) -> Result<Summary> {
    let containerd = GrpcClient::connect(socket).await?;
    let layout = await_reply(&containerd, containerd.layout()).await?;
    let mut blobs = Blobs::of_content(&layout.content)?;
    let relinked = if options.dry_run { 0 } else { relink(&layout.content)? };
    let mut plan = Plan::new(wanted, &blobs, options.sources);
    let preflight = Preflight {
        containerd: &containerd,
        layout: &layout,
        store,
        plan: &plan,
        merge: options.merge,
    };
    let checks = preflight.run().await?;
    checks.iter().for_each(|check| each(Event::Check(check.clone())));
    each(Event::Plan(plan.extent()));
    if let Some(refusal) = preflight::refusal(&checks) {
        return Err(refusal);
    }
    if options.verify {
        blobs.note_damaged(verify::run(&blobs, &plan));
        plan = Plan::new(wanted, &blobs, options.sources);
    }
    if options.dry_run {
        return Ok(tell(&plan, each));
    }
    let namespaces = plan.namespaces.len() as u64;
    let mut summary = Summary { namespaces, relinked, ..Summary::default() };
    let progress = progress::of("blobs", plan.extent().blobs);
    for (namespace, planned) in &plan.namespaces {
        progress.set_message(format!("namespace {namespace}"));
        let mut restoring = Restoring {
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
            each(Event::Difference(difference));
        }
    }
    Ok(summary)
}

/// Puts blobs back that containerd has collected since `rescue prepare` gave them second names.
fn relink(content: &Path) -> Result<u64> {
    let links = content.join(prepare::LINK_FOLDER);
    if links.is_dir() { prepare::link_missing(&links, &content.join("blobs")) } else { Ok(0) }
}

fn interrupted(error: &Error) -> Error {
    Error::Unavailable(format!(
        "{error}; the rescue ended there; what was taken up is kept by a lease: run it again for the rest"
    ))
}

/// Tells what a plan would do.
fn tell(plan: &Plan, mut each: impl FnMut(Event)) -> Summary {
    let mut summary = Summary {
        namespaces: plan.namespaces.len() as u64,
        adopted: plan.extent().blobs,
        dry_run: true,
        ..Summary::default()
    };
    for (namespace, planned) in &plan.namespaces {
        let mut told = |name: &str, aside, result, lost| {
            let (namespace, name) = (namespace.to_string(), Some(name.to_owned()));
            let outcome = Outcome { namespace, name, aside, result, lost, dry_run: true };
            summary.count(&outcome);
            each(Event::Outcome(outcome));
        };
        for image in &planned.images {
            let result = if image.usable { ImageResult::Restored } else { ImageResult::Lost };
            let wanted = &image.wanted;
            told(&wanted.image.name, wanted.aside, result, image.lost.clone());
        }
        for name in &planned.damaged {
            told(name, false, ImageResult::Damaged, Vec::new());
        }
    }
    summary
}

/// Compares what containerd has at the end with the images that could get their names. Their times may
/// differ: containerd 1.6 takes none.
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
