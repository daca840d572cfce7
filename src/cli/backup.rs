//! `lmdb-images backup`.

use std::path::PathBuf;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, Output, note};
use crate::admin::backup;

/// Write a snapshot of the store to a file
///
/// The daemon may keep running. The file is compact and readable by its owner only. The command syncs and
/// verifies the file before the file gets its name. It refuses a damaged store. `restore` makes the backup the
/// store again.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    root: StoreArgs,

    /// Replace an existing file
    #[arg(long)]
    force: bool,

    /// The file to write
    file: PathBuf,
}

impl Backup {
    /// Writes the backup, and prints a summary.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let root = self.root.folder()?;
        note(format_args!("copying the store in {} to {}", root.display(), self.file.display()));
        let done = backup::run(&root, &self.file, self.force)?;
        let mut out = Output::new();
        let summary = format!("wrote {} records, {} bytes", done.records, done.bytes);
        out.line(&summary);
        out.finish(format_args!("the backup is complete: {summary}"))
    }
}
