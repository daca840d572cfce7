//! What is checked of a data file before LMDB maps it.
//!
//! LMDB is C that trusts its file: a page number past the end is a SIGBUS, a broken header may be
//! worse. This is a reader of the same format in safe Rust, which uses `pread` and checks every
//! bound:
//!
//! Here is the verdict on a file, as a sentence; [`format`](crate::store::format) reads it.
//!
//! It does not look at values: a record has a checksum of its own, which is checked whenever it is
//! read. And it is not for a file that is changed under a running daemon by others than LMDB.

use std::fs::File;
use std::path::Path;

use crate::model::{Error, Result};
use crate::store::dir::{disk_space, permissions};
use crate::store::format::pages::Damage;
use crate::store::format::state::{Metas, State};

/// Verifies a file before LMDB maps it. Accepts a missing or an empty file: that is a new store. A file
/// may end before its last page if LMDB has never written the free pages there; it is extended, so that
/// a read returns zeros instead of a SIGBUS. No other process may write the file meanwhile.
///
/// # Errors
/// `DataLoss` if LMDB must not map the file.
pub fn check_before_mmap(path: &Path) -> Result<()> {
    let Some(file) = permissions::open_regular(path, true)? else { return Ok(()) };
    let to_error = |e| Error::Internal(format!("extending {}: {e}", path.display()));
    let length = file.metadata().map_err(to_error)?.len();
    if length == 0 {
        return Ok(());
    }
    let state = state(&file).map_err(|damage| damage_error(path, &file, &damage))?;
    if length < state.length {
        disk_space::allocate(&file, state.length).map_err(to_error)?;
    }
    Ok(())
}

/// Verifies the newest state of a file. Another process may write the file through LMDB if the caller has
/// a read transaction open: LMDB then reuses no page of that state or of a later one, so the verified
/// pages do not change.
pub fn state(file: &File) -> Result<State, Damage> {
    let metas = Metas::read(file)?;
    State::read(file, metas.live()?)
}

/// Checks the two meta pages only: all that LMDB itself looks at when it opens a file.
pub fn metas(path: &Path, file: &File) -> Result<()> {
    let checked = Metas::read(file).and_then(|metas| metas.live().map(drop));
    checked.map_err(|damage| damage_error(path, file, &damage))
}

/// The error about a damaged file.
pub fn damage_error(path: &Path, file: &File, damage: &Damage) -> Error {
    let before =
        if older_is_whole(file) { "; its state before the last change is whole" } else { "" };
    let root = path.parent().unwrap_or(path);
    Error::DataLoss(format!(
        "{} is damaged: {damage}{before}; nothing was changed; stop the daemon and run `lmdb-images \
         recover --root {root}` to save what can be saved, or `lmdb-images restore --root {root} \
         --force FILE` to go back to a backup",
        path.display(),
        root = root.display()
    ))
}

/// Whether the meta page that is not the live one leads to a whole state.
fn older_is_whole(file: &File) -> bool {
    let Ok(metas) = Metas::read(file) else { return false };
    let other = match metas.live() {
        Ok(live) => metas.other(live),
        Err(_) => metas.0.iter().flatten().next(),
    };
    other.is_some_and(|meta| State::read(file, meta).is_ok())
}
