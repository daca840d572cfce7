//! `lmdb-images import`.

use clap::Args;

use super::{Containerd, Root, wait};
use crate::admin::import;
use crate::model::Result;

/// Copy the image records and namespaces of a running containerd into the store
///
/// Times are kept. What the store holds beside them stays, and a second run changes nothing. No
/// daemon may serve the store meanwhile.
#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    containerd: Containerd,
}

impl Import {
    /// Copies, and prints one line of what was done.
    pub fn run(self) -> Result<()> {
        let root = self.root.folder()?;
        let containerd = self.containerd.socket(&self.root.file)?;
        let summary = wait(import::run(&root, &containerd))?;
        println!("imported {summary}");
        Ok(())
    }
}
