//! `lmdb-images restore`: replaces a store with a backup. The daemon must be stopped.
//!
//! The command copies the backup into the root, verifies all checksums, and opens the copy as a store,
//! which migrates an older schema. Only then does the copy replace the data file, atomically. The old
//! data file is kept under another name.

use crate::store::dir::files::DATA_FILE;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Not;
use std::path::Path;

use super::backup::verify;
use super::{file, progress};
use crate::clock;
use crate::model::{Context, Error, Result};
use crate::store::dir::root::{IN_USE, StoreDir};
use crate::store::dir::scratch::ScratchFolder;
use crate::store::dir::{permissions, store_id};
use crate::store::{ReadOnlyStore, Store};
use lmdb_verify::layout::Meta;
use lmdb_verify::state::Metas;

/// Result of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Records in the store: images, namespaces and leases.
    pub records: u64,
    /// New name of the old data file, if there was one with content.
    pub kept: Option<String>,
}

/// Makes the backup `file` the store in `root`. Replaces a store with content only with `force`.
///
/// # Errors
/// `AlreadyExists` without `force`, `FailedPrecondition` while a process has the store open, `DataLoss`
/// if the backup is damaged. The store is unchanged after an error.
pub fn run(root: &Path, file: &Path, force: bool) -> Result<Summary> {
    let backup = file::open_to_read(file)?;
    let root =
        StoreDir::lock(root).map_err(|e| stop_daemon_hint(e, "restore, and start it again"))?;
    let replaces = has_content(&root)?;
    if replaces && !force {
        return Err(Error::AlreadyExists(format!(
            "there is a store with content in {}: --force replaces it and keeps the old data file under another name",
            root.path().display()
        )));
    }
    // Before it is copied: the file may have any length, and anything in it.
    let used = used_bytes(&backup, file)?;
    let scratch = ScratchFolder::create_in(root.path())?;
    let copy = scratch.path().join(DATA_FILE);
    copy_file(&mut (&backup).take(used), &copy)?;
    let records = verify(&file::open_to_read(&copy)?, &format!("{}", file.display()))?;
    // Opening migrates an older schema and refuses a newer one; dropping waits until all is on disk. The
    // log continues behind the backup's last entry, with numbers that the replaced store may have used.
    let store = Store::open(scratch.path())?;
    store.renew_log_epoch()?;
    store.detach_journal()?;
    drop(store);
    let kept = replaces.then(|| backup_name("replaced"));
    root.replace(&copy, kept.as_deref())?;
    Ok(Summary { records, kept })
}

/// Bytes of a data file that its meta pages say are in use.
///
/// # Errors
/// `DataLoss` if they say that it is no data file of LMDB.
fn used_bytes(backup: &File, file: &Path) -> Result<u64> {
    let metas = Metas::read(backup).and_then(|metas| metas.live().map(drop).map(|()| metas));
    let metas = metas.map_err(|damage| {
        Error::DataLoss(format!(
            "{} is damaged: {damage}; nothing was changed. `lmdb-images check` lists the damage, \
             `lmdb-images recover` saves what is readable",
            file.display()
        ))
    })?;
    let used =
        |meta: &Meta| (meta.last_page.saturating_add(1)).saturating_mul(meta.page_size as u64);
    Ok(metas.0.iter().flatten().map(used).max().unwrap_or_default())
}

fn copy_file(from: &mut impl Read, to: &Path) -> Result<()> {
    let progress = progress::timer("copying");
    let copied = file::create_new(to).and_then(|mut copy| {
        io::copy(from, &mut copy)?;
        copy.sync_all()
    });
    progress.finish_and_clear();
    copied.or_internal(format_args!("copying to {}", to.display()))
}

/// Returns true if the root holds a store with records, or one that cannot be read.
fn has_content(root: &StoreDir) -> Result<bool> {
    if permissions::stat_regular(&root.data_file())?.is_none_or(|found| found.len() == 0) {
        // Without its data file a store may still have its last changes in the journal.
        return match store_id::check_without_data(root.path()) {
            Err(Error::DataLoss(_)) => Ok(true),
            checked => checked.map(|()| false),
        };
    }
    let counts = ReadOnlyStore::open(root.path()).and_then(|reader| reader.read(|s| s.counts()));
    Ok(counts.is_ok_and(|counts| counts.records + counts.set_aside == 0).not())
}

/// Returns the name under which a replaced data file is kept.
pub(crate) fn backup_name(why: &str) -> String {
    let now = clock::display_time().strftime("%Y%m%dT%H%M%S%3fZ");
    format!("{DATA_FILE}.{why}-{now}")
}

/// Refuses a root without a store, so that a command creates nothing in a wrong folder.
pub(crate) fn require_store(root: &Path) -> Result<()> {
    match permissions::stat_regular(&root.join(DATA_FILE))? {
        Some(found) if found.len() > 0 => Ok(()),
        _ => Err(Error::not_found(format_args!("there is no store in {}", root.display()))),
    }
}

/// Adds to an "in use" error that the daemon must be stopped, and what to do `then`.
pub(crate) fn stop_daemon_hint(error: Error, then: &str) -> Error {
    if error.reason() != Some(IN_USE) {
        return error;
    }
    let why = error.message().trim_end_matches(": failed precondition");
    Error::FailedPrecondition(format!("{why}: stop the daemon that serves it, {then}"))
}
