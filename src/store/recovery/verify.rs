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

/// Refuses a file that LMDB must not map, with a sentence. A missing or an empty file is a new
/// store. One that ends before its last page, where only free pages are that LMDB never wrote, is
/// extended, so that a read there is one of zeros instead of a SIGBUS. Nobody else may be writing
/// it.
pub fn check_before_mmap(path: &Path) -> Result<()> {
    let Some(file) = permissions::open_regular(path, true)? else { return Ok(()) };
    let told = |e| Error::Internal(format!("extending {}: {e}", path.display()));
    let length = file.metadata().map_err(told)?.len();
    if length == 0 {
        return Ok(());
    }
    let state = state(&file).map_err(|damage| damage_error(path, &file, &damage))?;
    if length < state.length {
        disk_space::allocate(&file, state.length).map_err(told)?;
    }
    Ok(())
}

/// Verifies the state that a file is in now. Somebody may be writing it through LMDB, if the caller
/// has a transaction open that reads: then the pages of its state, and of all later ones, are
/// not used again, so that what is read here stays whole, whatever is committed meanwhile.
pub fn state(file: &File) -> Result<State, Damage> {
    let metas = Metas::read(file)?;
    State::read(file, metas.live()?)
}

/// Checks the two meta pages only: all that LMDB itself looks at when it opens a file.
pub fn metas(path: &Path, file: &File) -> Result<()> {
    let checked = Metas::read(file).and_then(|metas| metas.live().map(drop));
    checked.map_err(|damage| damage_error(path, file, &damage))
}

/// The sentence about a damaged file.
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
