//! `lmdb-images compact`: shrinks the data file by copying it without free pages.
//!
//! LMDB reuses the pages of deleted records but never shrinks its file. The command makes a compact
//! copy, verifies it, and replaces the data file with it. The daemon must be stopped.

use std::path::Path;

use tempfile::NamedTempFile;

use super::backup::copy_verified;
use crate::model::{Context, Result};
use crate::store::ReadOnlyStore;
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;

/// Size of the data file before and after, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// Compacts the store in `root`.
///
/// # Errors
/// `FailedPrecondition` while a process has the store open, `DataLoss` if the store is damaged. The
/// store is unchanged after an error.
pub fn run(root: &Path) -> Result<Summary> {
    super::restore::require_store(root)?;
    let root = StoreDir::lock(root).map_err(|e| {
        super::restore::stop_daemon_hint(
            e,
            "compact, and start it again; or run `backup` while it runs and `restore` the backup, \
             which is compact, once it is stopped",
        )
    })?;
    let reader = ReadOnlyStore::open(root.path())?;
    let before = root
        .data_file()
        .metadata()
        .or_internal(format_args!("in {}", root.path().display()))?
        .len();
    let scratch = ScratchFolder::create_in(root.path())?;
    let copy = NamedTempFile::new_in(scratch.path())
        .or_internal(format_args!("in {}", root.path().display()))?;
    let after = copy_verified(&reader, &copy)?.bytes;
    drop(reader);
    root.replace(copy.path(), None)?;
    // `replace` has renamed the file, so there is nothing left to delete.
    let _ = copy.into_temp_path().keep();
    Ok(Summary { before, after })
}
