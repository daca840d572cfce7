//! `lmdb-images compact`.

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, Output, note};
use crate::admin::compact;

/// Shrink the data file by copying it without free pages
///
/// The file does not shrink by itself: LMDB reuses the pages of deleted records. The compact copy is
/// verified before it replaces the file. The daemon must be stopped.
#[derive(Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    root: StoreArgs,
}

impl Compact {
    /// Compacts, and prints a summary.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let root = self.root.folder()?;
        note(format_args!("copying the store in {} without its free pages", root.display()));
        let done = compact::run(&root)?;
        let mut out = Output::new();
        let summary = format!("{} bytes, were {}", done.after, done.before);
        out.line(&summary);
        out.finish(format_args!("the store is compact: {summary}"))
    }
}
