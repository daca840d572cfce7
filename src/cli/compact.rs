//! `lmdb-images compact`.

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, Output, note};
use crate::admin::compact;

/// Give the space of deleted records back to the disk
///
/// The file does not shrink by itself: its free pages are used again. A compact copy is made and put
/// in its place. No daemon may serve the store meanwhile.
#[derive(Args)]
pub struct Compact {
    #[command(flatten)]
    root: StoreArgs,
}

impl Compact {
    /// Compacts, and prints one line of what was done.
    pub fn run(self) -> Result<(), Failure> {
        let root = self.root.folder()?;
        note(format_args!("writing the store in {} anew, without free pages", root.display()));
        let done = compact::run(&root)?;
        let mut out = Output::new();
        let summary = format!("{} bytes, were {}", done.after, done.before);
        out.line(&summary);
        out.finish(format_args!("the store is compact: {summary}"))
    }
}
