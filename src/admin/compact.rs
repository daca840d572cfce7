//! `lmdb-images compact`: gives the space of free pages back to the disk.
//!
//! LMDB's file never shrinks by itself: what is deleted leaves pages that are used again. A compact
//! copy is made, read back, and put in the file's place. No daemon may serve the store meanwhile.

use std::path::Path;

use tempfile::NamedTempFile;

use super::backup::copy_verified;
use crate::model::{Error, Result};
use crate::store::ReadOnlyStore;
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;

/// Bytes of the file before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Compacts the store in `root`.
pub fn run(root: &Path) -> Result<Summary> {
    super::restore::require_store(root)?;
    let root = StoreDir::lock(root).map_err(|e| {
        super::restore::stop_daemon_hint(
            e,
            "compact and start it again; or take a `backup` beside it, which is compact, and \
             `restore` that when it may be stopped",
        )
    })?;
    let reader = ReadOnlyStore::open(root.path())?;
    let told = |e: std::io::Error| Error::Internal(format!("in {}: {e}", root.path().display()));
    let before = root.data_file().metadata().map_err(told)?.len();
    let scratch = ScratchFolder::create_in(root.path())?;
    let copy = NamedTempFile::new_in(scratch.path()).map_err(told)?;
    let after = copy_verified(&reader, &copy)?.bytes;
    drop(reader);
    root.replace(copy.path(), None)?;
    // It has been renamed: there is nothing to remove any more.
    let _ = copy.into_temp_path().keep();
    Ok(Summary { before, after })
}
