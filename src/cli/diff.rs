//! `lmdb-images diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Root;
use crate::admin::diff;
use crate::model::{Error, Result};

/// Show what differs between the store and a running containerd
///
/// One line an image: namespace, name, what differs; nothing when all is well. Exits with 1 when
/// something differs. It reads beside a running daemon and changes nothing.
#[derive(Args)]
pub struct Diff {
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

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// Compares, and prints the differences.
    pub fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("starting: {e}")))?;
        let found = runtime.block_on(diff::run(&self.root.root, &self.containerd))?;
        for difference in &found.differences {
            if self.json {
                println!("{}", difference.json());
            } else {
                println!("{difference}");
            }
        }
        if found.aside > 0 {
            eprintln!(
                "{} images are set aside in the store: containerd no longer had them after a gap",
                found.aside
            );
        }
        Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
