//! `lmdb-images restore`.

use std::path::PathBuf;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, Output, note};
use crate::admin::restore;

/// Restore the store from a backup
///
/// Verifies all checksums of the backup first, and changes nothing if the backup is damaged. The daemon must be
/// stopped.
#[derive(Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    root: StoreArgs,

    /// Replace a store that has content or is damaged; the old data file is kept under another name
    #[arg(long)]
    force: bool,

    /// The backup file
    file: PathBuf,
}

impl Restore {
    /// Restores, and prints a summary.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let root = self.root.folder()?;
        note(format_args!("making {} the store in {}", self.file.display(), root.display()));
        let done = restore::run(&root, &self.file, self.force)?;
        let mut summary = vec![format!("restored {} records", done.records)];
        summary.extend(done.kept.map(|kept| format!("the store that was there is kept as {kept}")));
        let mut out = Output::new();
        summary.iter().for_each(|line| out.line(line));
        out.finish(format_args!("the backup is the store: {}", summary.join("; ")))
    }
}
