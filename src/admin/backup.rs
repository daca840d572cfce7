//! `lmdb-images backup`: one state of a store as a file, beside a running daemon.
//!
//! The file has LMDB's format and no free pages: `restore` puts it back, and any LMDB reads it. It
//! is read back and verified with all its checksums before it gets its name, so that a damaged
//! copy never takes the place of a good one.

use std::fs::File;
use std::path::Path;

use tempfile::NamedTempFile;

use super::{file, progress};
use crate::model::{Error, Result};
use crate::store::ReadOnlyStore;
use crate::store::recovery::salvage::salvage;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Records in it, of namespaces and leases too.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes the store in `root` to `file`, which must not be there unless `force`.
pub fn run(root: &Path, file: &Path, force: bool) -> Result<Summary> {
    file::check_target(file, force)?;
    let reader = ReadOnlyStore::open(root)?;
    let scratch = file::scratch_beside(file)?;
    // With mode 0600; gone again if anything below fails.
    let copy = NamedTempFile::new_in(scratch.path())
        .map_err(|e| Error::Internal(format!("making a file beside {}: {e}", file.display())))?;
    let summary = copy_verified(&reader, &copy)?;
    file::put(copy, file, force)?;
    Ok(summary)
}

/// Copies a store into an empty file, syncs it and reads it back.
pub fn copy_verified(reader: &ReadOnlyStore, copy: &NamedTempFile) -> Result<Summary> {
    let progress = progress::lasting("copying");
    reader.copy_to(copy.path())?;
    let told = |e| Error::Internal(format!("syncing the copy: {e}"));
    copy.as_file().sync_all().map_err(told)?;
    progress.finish_and_clear();
    let records = verify(copy.as_file(), "the store")?;
    Ok(Summary { records, bytes: copy.as_file().metadata().map_err(told)?.len() })
}

/// Reads a whole file with all checksums; counts its records. `what` is called damaged if it is.
pub fn verify(file: &File, what: &str) -> Result<u64> {
    let progress = progress::counting("records read back");
    let mut records = 0;
    let found = salvage(file, &mut |_| {
        records += 1;
        progress.inc(1);
        Ok(())
    })?;
    progress.finish_and_clear();
    if found.whole {
        return Ok(records);
    }
    let first = found.damage.first().map_or("", String::as_str);
    Err(Error::DataLoss(format!(
        "{what} is damaged: {first}; `lmdb-images check` says what, `lmdb-images recover` saves the rest; \
         nothing was changed"
    )))
}
