//! `lmdb-images diff`.

use std::process::ExitCode;

use clap::Args;

use super::output::{print, visible};
use super::{Containerd, Root, wait};
use crate::admin::diff;
use crate::model::Result;

/// Show what differs between the store and a running containerd
///
/// One line an image: namespace, name, what differs; nothing when all is well. Exits with 1 when
/// something differs. It reads beside a running daemon and changes nothing.
#[derive(Args)]
pub struct Diff {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    containerd: Containerd,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// Compares, and prints the differences.
    pub fn run(self) -> Result<ExitCode> {
        let root = self.root.folder()?;
        let containerd = self.containerd.socket(&self.root.file)?;
        let found = wait(diff::run(&root, &containerd))?;
        print(|out| {
            found.differences.iter().try_for_each(|difference| {
                if self.json {
                    return writeln!(out, "{}", difference.json());
                }
                let (namespace, name) = (&difference.namespace, visible(&difference.name));
                writeln!(out, "{namespace}\t{name}\t{}", difference.how)
            })
        })?;
        if found.aside > 0 {
            eprintln!(
                "{} images are set aside in the store: containerd no longer had them after a gap",
                found.aside
            );
        }
        Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
