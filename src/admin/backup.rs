//! `lmdb-images backup`: writes one snapshot of a store to a file. The daemon may keep running.
//!
//! The file has LMDB's format and no free pages. `restore` puts it back, and any LMDB program reads
//! it. The command reads the copy back and verifies all checksums before it renames the copy to
//! its final name, so a damaged copy never replaces a good backup.

use std::fs::File;
use std::path::Path;

use tempfile::NamedTempFile;

use super::{file, progress};
use crate::model::{Context, Error, Result};
use crate::store::ReadOnlyStore;
use crate::store::recovery::salvage::salvage;

/// Size of a written backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Records in the file: images, namespaces and leases.
    pub records: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Writes the store in `root` to `file`. Replaces an existing file only with `force`.
///
/// # Errors
/// `AlreadyExists` without `force`, `DataLoss` if the store is damaged. A failed backup leaves no
/// file.
pub fn run(root: &Path, file: &Path, force: bool) -> Result<Summary> {
    file::check_target(file, force)?;
    let reader = ReadOnlyStore::open(root)?;
    let scratch = file::scratch_beside(file)?;
    // The file has mode 0600; dropping it on an error below deletes it.
    let copy = NamedTempFile::new_in(scratch.path())
        .or_internal(format_args!("making a file beside {}", file.display()))?;
    let summary = copy_verified(&reader, &copy)?;
    file::put(copy, file, force)?;
    Ok(summary)
}

/// Copies a store into an empty file, syncs the file and verifies it.
pub(crate) fn copy_verified(reader: &ReadOnlyStore, copy: &NamedTempFile) -> Result<Summary> {
    let progress = progress::timer("copying");
    reader.copy_to(copy.path())?;
    copy.as_file().sync_all().or_internal("syncing the copy")?;
    progress.finish_and_clear();
    let records = verify(copy.as_file(), "the store")?;
    Ok(Summary { records, bytes: copy.as_file().metadata().or_internal("syncing the copy")?.len() })
}

/// Verifies all checksums of a data file and counts its records. `what` names the file in the error.
pub fn verify(file: &File, what: &str) -> Result<u64> {
    let progress = progress::counter("records read back");
    let mut records = 0;
    let found = salvage(file, &mut |_| {
        records += 1;
        progress.inc(1);
        Ok(())
    })?;
    progress.finish_and_clear();
    if found.is_whole {
        return Ok(records);
    }
    let first = found.damage.first().map_or("", String::as_str);
    Err(Error::DataLoss(format!(
        "{what} is damaged: {first}; nothing was changed. `lmdb-images check` lists the damage, \
         `lmdb-images recover` saves what is readable"
    )))
}
