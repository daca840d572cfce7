//! `lmdb-images restore`: puts a backup in the place of a store that no daemon serves.
//!
//! The backup is copied into the root, read with all its checksums, and opened there as a store,
//! which brings one of an older version up to date; only then it takes the place of the data file,
//! at once. What was there is kept under another name.

use crate::store::dir::files::DATA_FILE;
use std::fs::File;
use std::io;
use std::ops::Not;
use std::path::Path;

use super::backup::verify;
use super::{file, progress};
use crate::clock;
use crate::model::{Error, Result};
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;
use crate::store::dir::{permissions, store_id};
use crate::store::{ReadOnlyStore, Store};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Records in the store now, of namespaces and leases too.
    pub records: u64,
    /// What the data file that was there is called now.
    pub kept: Option<String>,
}

/// Makes the backup `file` the store in `root`; one with content only if `force`.
pub fn run(root: &Path, file: &Path, force: bool) -> Result<Summary> {
    let mut backup = file::open_to_read(file)?;
    let root =
        StoreDir::lock(root).map_err(|e| stop_daemon_hint(e, "restore, and start it again"))?;
    let there = content(&root)?;
    if there && !force {
        return Err(Error::AlreadyExists(format!(
            "there is a store with content in {}: --force replaces it, and keeps it under another name",
            root.path().display()
        )));
    }
    let scratch = ScratchFolder::create_in(root.path())?;
    let copy = scratch.path().join(DATA_FILE);
    copy_file(&mut backup, &copy)?;
    let records = verify(&file::open_to_read(&copy)?, &format!("{}", file.display()))?;
    // Its schema is known, or made so; closed again when all is on disk.
    drop(Store::open(scratch.path())?);
    let kept = there.then(|| backup_name("replaced"));
    root.replace(&copy, kept.as_deref())?;
    Ok(Summary { records, kept })
}

fn copy_file(from: &mut File, to: &Path) -> Result<()> {
    let progress = progress::lasting("copying");
    let copied = file::create_new(to).and_then(|mut copy| {
        io::copy(from, &mut copy)?;
        copy.sync_all()
    });
    progress.finish_and_clear();
    copied.map_err(|e| Error::Internal(format!("copying to {}: {e}", to.display())))
}

/// Whether there is a store that holds anything, or one that cannot be read.
fn content(root: &StoreDir) -> Result<bool> {
    if permissions::stat_regular(&root.data_file())?.is_none_or(|found| found.len() == 0) {
        // The last changes of a store whose data file was lost may be left.
        return match store_id::check_without_data(root.path()) {
            Err(Error::DataLoss(_)) => Ok(true),
            looked => looked.map(|()| false),
        };
    }
    let counts = ReadOnlyStore::open(root.path()).and_then(|reader| reader.read(|s| s.counts()));
    Ok(counts.is_ok_and(|counts| counts.records + counts.aside == 0).not())
}

/// The name of a data file that makes room.
pub fn backup_name(why: &str) -> String {
    let now = clock::display_time().strftime("%Y%m%dT%H%M%S%3fZ");
    format!("{DATA_FILE}.{why}-{now}")
}

/// Refuses a root without a store, before anything is made in it.
pub fn require_store(root: &Path) -> Result<()> {
    match permissions::stat_regular(&root.join(DATA_FILE))? {
        Some(found) if found.len() > 0 => Ok(()),
        _ => Err(Error::not_found(format_args!("there is no store in {}", root.display()))),
    }
}

/// Says what to do when a daemon has the store.
pub fn stop_daemon_hint(error: Error, then: &str) -> Error {
    match error {
        Error::FailedPrecondition(m) if m.contains("in use") => {
            Error::FailedPrecondition(format!("{m}: stop the daemon that serves it, then {then}"))
        }
        other => other,
    }
}
