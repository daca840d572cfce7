//! The file `store-id`: it records that the folder has a store, and the UUID of the store.
//!
//! Without the file, a folder whose data file was removed looks like a folder that never had a store. The file is
//! written after the data file is in its place, and removed before another data file takes that place. So a power
//! cut between the two steps leaves no contradiction.

use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, LOCK_FILE, STORE_ID_FILE};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::model::{Context, Error, Result};
use crate::store::dir::{disk_space, files, permissions};

/// The UUID of the store that the folder holds or held; empty if the file cannot be understood.
pub(crate) fn read(root: &Path) -> Result<Option<String>> {
    let path = root.join(STORE_ID_FILE);
    if permissions::stat_regular(&path)?.is_none() {
        return Ok(None);
    }
    let bytes = fs::read(&path).or_internal(format_args!("reading {}", path.display()))?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    Ok(Some(uuid::Uuid::parse_str(text).map(|uuid| uuid.to_string()).unwrap_or_default()))
}

/// Refuses a folder that lacks its data file, but has other files of a store. A new store would hide
/// that records are lost.
pub(crate) fn check_without_data(root: &Path) -> Result<()> {
    let has_content = |name: &str| -> Result<bool> {
        Ok(permissions::stat_regular(&root.join(name))?.is_some_and(|found| found.len() > 0))
    };
    let rest = if let Some(uuid) = read(root)? {
        format!("the folder held the store {uuid}")
    } else if has_content(JOURNAL_FILE)? {
        "the journal of a store is there".to_owned()
    } else if has_content(LOCK_FILE)? {
        format!("{LOCK_FILE} shows that a store was there")
    } else {
        return Ok(());
    };
    let root = root.display();
    Err(Error::DataLoss(format!(
        "{root}/{DATA_FILE} is missing or empty, but {rest}; nothing was changed; put the file back, or run \
         `lmdb-images restore --root {root} --force FILE` with a backup, or `lmdb-images recover --root \
         {root}` to save what the journal has; for a new, empty store, move the files of {root} away"
    )))
}

/// Refuses a folder whose data file belongs to another store than the folder held.
pub(crate) fn check(root: &Path, uuid: &str) -> Result<()> {
    match read(root)? {
        Some(held) if !held.is_empty() && held != uuid => {
            let root = root.display();
            Err(Error::DataLoss(format!(
                "{root}/{DATA_FILE} belongs to the store {uuid}, but the folder held the store {held}; put \
                 the right file back, or remove {root}/{STORE_ID_FILE} and \
                 {root}/{} to go on with this one",
                JOURNAL_FILE
            )))
        }
        _ => Ok(()),
    }
}

/// Writes the file, if it is missing or damaged. The caller syncs the folder.
pub(crate) fn write(root: &Path, uuid: &str) -> Result<()> {
    if read(root)?.is_some_and(|held| held == uuid) {
        return Ok(());
    }
    let (path, new) = (root.join(STORE_ID_FILE), root.join(format!("{STORE_ID_FILE}.new")));
    let write = || -> io::Result<()> {
        files::remove(&new)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{uuid}")?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    match write() {
        // The disk is full: the store works without it.
        Err(e) if disk_space::is_full_error(&e) => {
            log::warn!("writing {}: {e}", path.display());
            Ok(())
        }
        written => written.or_internal(format_args!("writing {}", path.display())),
    }
}

/// Removes the file, before another store's data file takes the place of this one's.
pub(crate) fn remove(root: &Path) -> Result<()> {
    files::remove(&root.join(STORE_ID_FILE))
        .or_internal(format_args!("removing {STORE_ID_FILE} in {}", root.display()))
}
