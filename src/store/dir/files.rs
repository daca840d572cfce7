//! The names of the files in the folder of a store.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// LMDB's data file.
pub(crate) const DATA_FILE: &str = "data.mdb";

/// LMDB's reader table.
pub(crate) const LOCK_FILE: &str = "lock.mdb";

/// The file that the owner of the folder has locked.
pub(crate) const OWNER_FILE: &str = "owner.lock";

/// The journal.
pub(crate) const JOURNAL_FILE: &str = "journal";

/// The store that the folder holds.
pub(crate) const STORE_ID_FILE: &str = "store-id";

/// Removes a file, which may be missing.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
