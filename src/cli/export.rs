//! `lmdb-images export`.

use std::process::ExitCode;

use clap::Args;

use super::output::{Failure, MAX_CELL_CHARS, Output, cell};
use super::{ContainerdArgs, StoreArgs, block_on};
use crate::admin::export::{self, Options, Outcome};
use crate::model::printable::one_line;

/// Put the image records and namespaces of the store into a running containerd
///
/// The way out: after it, containerd alone has every name whose content it has. An image whose
/// content it does not have is listed and left, and so is one that it has otherwise. Nothing is
/// removed, and a second run changes nothing. It reads beside a running daemon, or without one.
/// Times of creation and change are kept by containerd 1.7 and later.
///
/// Exits with 1 when something was left.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    root: StoreArgs,

    #[command(flatten)]
    containerd: ContainerdArgs,

    /// Replace what containerd has of the same name but otherwise. Content that nothing else names
    /// is then collected by containerd
    #[arg(long)]
    overwrite: bool,

    /// Change nothing, and say what would be done
    #[arg(long)]
    dry_run: bool,

    /// One JSON object a line, for each record that containerd did not have, and no summary
    #[arg(long)]
    json: bool,
}

impl Export {
    /// Writes the records, prints those that were left, and one line of what was done.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let root = self.root.folder()?;
        let containerd = self.containerd.socket(&self.root.file)?;
        let options = Options { overwrite: self.overwrite, dry_run: self.dry_run };
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

/// What became of a record, as a line of fields.
fn line(outcome: &Outcome) -> String {
    let name = match &outcome.name {
        Some(name) => cell(name, MAX_CELL_CHARS),
        None => "(labels of the namespace)".into(),
    };
    format!("{}\t{name}\t{}", outcome.namespace, one_line(&outcome.to_string()))
}
