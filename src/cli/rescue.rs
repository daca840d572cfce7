//! `lmdb-images rescue`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{Failure, Output, note, print};
use super::text::{MAX_CELL_CHARS, cell, visible};
use super::{ContainerdArgs, StoreArgs, block_on};
use crate::admin::rescue::from_blobs::{self, CandidateLine};
use crate::admin::rescue::prepare::{self, Folders};
use crate::admin::rescue::report::{RescueEvent, RescueOutcome, RescueSummary};
use crate::admin::rescue::{self, RescueOptions};
use crate::model::printable::one_line;
use crate::model::{Error, Namespace};

/// Restore the images of a containerd that has lost its database
///
/// Takes the names from the store, also those that were set aside, and the content from containerd's own disk.
/// Copies no byte and uses no network. First prints its checks, and changes nothing if a check fails. Does not
/// restore an image whose content is incomplete: it prints the name and the missing blobs. You may run the
/// command again after it was killed. docs/operations.md describes the steps before the rescue, under "The day
/// meta.db is gone".
///
/// Exits with 1 if an image was lost or skipped.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Rescue {
    #[command(subcommand)]
    step: Option<Step>,

    #[command(flatten)]
    root: StoreArgs,

    #[command(flatten)]
    containerd: ContainerdArgs,

    /// Without a store: find images among the blobs in this folder of a containerd, and print a list of them.
    /// Save the list in a file, edit it, and pass the file to --choice
    #[arg(long, value_name = "DIR", conflicts_with_all = ["choice", "dry_run", "verify", "sources", "merge"])]
    from_blobs: Option<PathBuf>,

    /// Namespace of the images in the list of --from-blobs
    #[arg(short, long, default_value = "default", requires = "from_blobs")]
    namespace: String,

    /// Take the names from this file, a list of --from-blobs, instead of the store
    #[arg(long, value_name = "FILE")]
    choice: Option<PathBuf>,

    /// Print the checks and the plan, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Hash every blob first, and skip damaged blobs. Without this flag, the command hashes only manifests
    #[arg(long)]
    verify: bool,

    /// Label each blob with the repositories in the names of its images, which is a guess. A push to such a
    /// registry can then refer to the blob instead of sending it
    #[arg(long)]
    sources: bool,

    /// Allow a containerd that already has images. The command changes none of them: it skips a name that
    /// containerd has
    #[arg(long)]
    merge: bool,

    /// Print one JSON object per line: checks, plan, images, differences, summary
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Step {
    Prepare(Prepare),
    Unprepare(Unprepare),
}

/// Move the files that block a rescue out of the way, while containerd is stopped
///
/// Links the blobs under second names, so that containerd's collector cannot destroy one. Moves meta.db, the
/// folders of the snapshotters (which have the files that containers wrote) and the state folder out of the
/// way. Prints each step before it takes it. Copies and removes no file. Refuses to run while a process holds
/// meta.db.
#[derive(Args)]
struct Prepare {
    #[command(flatten)]
    folders: FolderArgs,

    /// Print the steps, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Undo `rescue prepare`, while containerd is stopped
///
/// Moves everything back to its place. Keeps the files that containerd has made in the meantime beside it,
/// under names that end in .newer-TIME.
#[derive(Args)]
struct Unprepare {
    #[command(flatten)]
    folders: FolderArgs,
}

#[derive(Args)]
struct FolderArgs {
    /// containerd's root: `root` in its config.toml
    #[arg(long = "root-of-containerd", value_name = "DIR", default_value = "/var/lib/containerd")]
    root: PathBuf,

    /// containerd's state folder: `state` in its config.toml
    #[arg(long = "state-of-containerd", value_name = "DIR", default_value = "/run/containerd")]
    state: PathBuf,
}

impl FolderArgs {
    fn folders(self) -> Folders {
        Folders { root: self.root, state: self.state }
    }
}

impl Step {
    fn run(self) -> Result<ExitCode, Failure> {
        let mut out = Output::new();
        let done = match self {
            Self::Prepare(Prepare { folders, dry_run }) => {
                let folders = folders.folders();
                prepare::prepare(&folders, dry_run, |step| out.line(step))?;
                if dry_run { NOTHING_DONE } else { PREPARED }
            }
            Self::Unprepare(Unprepare { folders }) => {
                prepare::unprepare(&folders.folders(), |step| out.line(step))?;
                UNPREPARED
            }
        };
        out.line(done);
        out.finish(done)?;
        Ok(ExitCode::SUCCESS)
    }
}

const NOTHING_DONE: &str = "nothing was done";
const PREPARED: &str = "prepared: start containerd and nothing else, then run `lmdb-images rescue`";
const UNPREPARED: &str = "everything is where it was";

impl Rescue {
    /// Rescues, and prints checks, what was lost, and a summary.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(step) = self.step {
            return step.run();
        }
        if let Some(folder) = &self.from_blobs {
            return list(folder, &self.namespace);
        }
        let socket = self.containerd.socket(&self.root.file)?;
        let options = RescueOptions {
            dry_run: self.dry_run,
            verify: self.verify,
            sources: self.sources,
            merge: self.merge,
        };
        let mut out = Output::new();
        let print = |event| print_event(&mut out, self.json, self.dry_run, &event);
        let summary = match &self.choice {
            Some(list) => block_on(rescue::run_choice(list, &socket, options, print))?,
            None => block_on(rescue::run(&self.root.folder()?, &socket, options, print))?,
        };
        finish(out, self.json, &summary)
    }
}

/// Prints the list of --from-blobs.
fn list(folder: &Path, namespace: &str) -> Result<ExitCode, Failure> {
    let namespace = Namespace::parse(namespace)
        .map_err(|e| Error::InvalidArgument(format!("--namespace: {e}")))?;
    let found = from_blobs::find(folder)?;
    print(|out| {
        writeln!(out, "{}", from_blobs::LIST_HEADER)?;
        let mut lines = found
            .iter()
            .map(|candidate| CandidateLine { namespace: namespace.as_str(), candidate });
        lines.try_for_each(|line| writeln!(out, "{line}"))
    })?;
    let usable = found.iter().filter(|candidate| candidate.usable).count();
    note(format_args!("{} images found, {usable} of them complete", found.len()));
    Ok(ExitCode::SUCCESS)
}

fn print_event(out: &mut Output, json: bool, all: bool, event: &RescueEvent) {
    match event {
        event if json => out.line(event.json()),
        RescueEvent::Check(check) => match &check.found {
            Ok(found) => out.line(format_args!("ok    {}: {}", check.subject, one_line(found))),
            // Whole: what to do stands at its end.
            Err(why) => out.line(format_args!("STOP  {}: {why}", check.subject)),
        },
        RescueEvent::Plan(plan) => out.line(format_args!(
            "plan  {} images in {} namespaces ({} of them set aside in the store), {} blobs of {} \
             bytes; {} images cannot come back",
            plan.images, plan.namespaces, plan.set_aside, plan.blobs, plan.bytes, plan.unusable
        )),
        RescueEvent::Outcome(outcome) if all || outcome.is_loss() => out.line(line(outcome)),
        RescueEvent::Outcome(_) => {}
        RescueEvent::Difference(difference) => {
            let (namespace, name) = (&difference.namespace, visible(&difference.name));
            out.line(format_args!(
                "{namespace}\t{name}\t{}",
                one_line(&difference.kind.to_string())
            ));
        }
    }
}

/// An outcome as a line of fields.
fn line(outcome: &RescueOutcome) -> String {
    let name = match &outcome.name {
        Some(name) => cell(name, MAX_CELL_CHARS),
        None => "(labels of the namespace)".into(),
    };
    format!("{}\t{name}\t{outcome}", outcome.namespace)
}

fn finish(mut out: Output, json: bool, summary: &RescueSummary) -> Result<ExitCode, Failure> {
    let done = format!("{} {summary}", if summary.dry_run { "would rescue" } else { "rescued" });
    out.line(if json { summary.json() } else { done.clone() });
    out.finish(done)?;
    if summary.is_complete() {
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        note("the lost and skipped images are listed above; a pull brings an image back");
    }
    Ok(ExitCode::FAILURE)
}
