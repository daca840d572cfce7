//! `lmdb-images diff`.

use std::process::ExitCode;

use clap::Args;

use super::output::{Failure, note, print};
use super::text::visible;
use super::{ContainerdArgs, StoreArgs, block_on};
use crate::admin::diff;
use crate::model::printable::one_line;

/// Compare the store with a running containerd
///
/// Prints one line for each image that differs: namespace, name, and the fields that differ. Changes
/// nothing. The daemon may keep running. Exits with 0 if nothing differs, with 1 if an image differs, and with
/// 2 if the command failed.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    root: StoreArgs,

    #[command(flatten)]
    containerd: ContainerdArgs,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// Compares, and prints the differences.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let root = self.root.folder()?;
        let containerd = self.containerd.socket(&self.root.file)?;
        let found = block_on(diff::run(&root, &containerd))?;
        print(|out| {
            found.differences.iter().try_for_each(|difference| {
                if self.json {
                    return writeln!(out, "{}", difference.json());
                }
                let (namespace, name) = (&difference.namespace, visible(&difference.name));
                writeln!(out, "{namespace}\t{name}\t{}", one_line(&difference.kind.to_string()))
            })
        })?;
        if found.set_aside > 0 {
            note(format_args!(
                "{} images are set aside in the store: containerd no longer had them after a gap in its events",
                found.set_aside
            ));
        }
        Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
