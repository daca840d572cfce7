//! `lmdb-images restore`.

use std::path::PathBuf;

use clap::Args;

use super::Root;
use crate::admin::restore;
use crate::model::Result;

/// Make a backup the store
///
/// The backup is read with all its checksums first; a damaged one changes nothing. No daemon may serve
/// the store meanwhile.
#[derive(Args)]
pub struct Restore {
    #[command(flatten)]
    root: Root,

    /// Replace a store that has content, or is damaged; it is kept under another name
    #[arg(long)]
    force: bool,

    /// The backup
    file: PathBuf,
}

impl Restore {
    /// Restores, and prints what was done.
    pub fn run(self) -> Result<()> {
        let root = self.root.folder()?;
        eprintln!("making {} the store in {}", self.file.display(), root.display());
        let done = restore::run(&root, &self.file, self.force)?;
        println!("restored {} records", done.records);
        if let Some(kept) = done.kept {
            println!("the store that was there is kept as {kept}");
        }
        Ok(())
    }
}
