//! `lmdb-images export`.

use std::process::ExitCode;

use clap::Args;

use super::output::{Failure, Output};
use super::text::{MAX_CELL_CHARS, cell};
use super::{ContainerdArgs, StoreArgs, block_on};
use crate::admin::export::{self, ExportOptions, ExportOutcome};
use crate::model::printable::one_line;

/// Copy the image records and namespaces of the store into a running containerd
///
/// Afterwards containerd has every name whose content it has, and clients need lmdb-images no more. Skips and
/// lists an image if containerd lacks its content, or has a different image of that name. Removes nothing, and
/// a second run changes nothing. The daemon may keep running. containerd 1.7 and later keep the times of
/// creation and change.
///
/// Exits with 1 if it skipped an image.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    root: StoreArgs,

    #[command(flatten)]
    containerd: ContainerdArgs,

    /// Replace a different image of the same name in containerd. containerd then collects content that
    /// no other image refers to
    #[arg(long)]
    overwrite: bool,

    /// Change nothing, and print what would change
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object per line for each record that containerd lacked or had differently, and no
    /// summary
    #[arg(long)]
    json: bool,
}

impl Export {
    /// Exports, and prints the records that were left and a summary.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let root = self.root.folder()?;
        let containerd = self.containerd.socket(&self.root.file)?;
        let options = ExportOptions { overwrite: self.overwrite, dry_run: self.dry_run };
        let mut out = Output::new();
        let summary = block_on(export::run(&root, &containerd, options, |outcome| {
            if self.json {
                out.line(outcome.json());
            } else if self.dry_run || outcome.is_left() {
                out.line(line(&outcome));
            }
        }))?;
        let done = format!("{} {summary}", if self.dry_run { "would export" } else { "exported" });
        if !self.json {
            out.line(&done);
        }
        out.finish(done)?;
        Ok(if summary.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Formats the outcome of a record as a line of fields.
fn line(outcome: &ExportOutcome) -> String {
    let name = match &outcome.name {
        Some(name) => cell(name, MAX_CELL_CHARS),
        None => "(labels of the namespace)".into(),
    };
    format!("{}\t{name}\t{}", outcome.namespace, one_line(&outcome.to_string()))
}
