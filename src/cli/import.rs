//! `lmdb-images import`.

use std::path::PathBuf;

use clap::Args;

use super::Root;
use crate::admin::import;
use crate::model::{Error, Result};

/// Copy the image records and namespaces of a running containerd into the store
///
/// Times are kept. What the store holds beside them stays, and a second run changes nothing. No
/// daemon may serve the store meanwhile.
#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    root: Root,

    /// Socket of the containerd
    #[arg(
        long,
        env = "LMDB_IMAGES_CONTAINERD",
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
}

impl Import {
    /// Copies, and prints one line of what was done.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("starting: {e}")))?;
        let summary = runtime.block_on(import::run(&self.root.root, &self.containerd))?;
        println!("imported {summary}");
        Ok(())
    }
}
