//! Verifies a data file before LMDB maps it, and makes the error for a damaged one. The crate
//! [`lmdb_verify`] reads the file.
//!
//! LMDB trusts its file: a page number beyond the end of the file ends the process by SIGBUS, and a damaged
//! page may corrupt memory.
//!
//! This module does not verify values: each record has its own checksum, which every read verifies. Nor
//! does it protect against another program that changes the file of a running daemon.

use std::fs::File;
use std::path::Path;

use lmdb_verify::{Damage, Metas, State};

use crate::model::{Context, Error, Result};
use crate::store::dir::{disk_space, permissions};

/// Verifies a file before LMDB maps it. Accepts a missing or an empty file: that is a new store. A file
/// may end before its last page if LMDB has never written the free pages there; it is extended, so that
/// a read returns zeros instead of a SIGBUS. No other process may write the file meanwhile.
///
/// # Errors
/// `DataLoss` if LMDB must not map the file.
pub(crate) fn check_before_mmap(path: &Path) -> Result<()> {
    let Some(file) = permissions::open_regular(path, true)? else { return Ok(()) };
    let length = file.metadata().or_internal(format_args!("extending {}", path.display()))?.len();
    if length == 0 {
        return Ok(());
    }
    let state = state(&file).map_err(|damage| damage_error(path, &file, &damage))?;
    if length < state.length {
        disk_space::allocate(&file, state.length)
            .or_internal(format_args!("extending {}", path.display()))?;
    }
    Ok(())
}

/// Verifies the newest state of a file. Another process may write the file through LMDB if the caller has
/// a read transaction open: LMDB then reuses no page of that state or of a later one, so the verified
/// pages do not change.
pub fn state(file: &File) -> Result<State, Damage> {
    State::read_live(file)
}

/// Checks only the two meta pages, as LMDB does when it opens a file.
pub(crate) fn metas(path: &Path, file: &File) -> Result<()> {
    let checked = Metas::read(file).and_then(|metas| metas.live().map(drop));
    checked.map_err(|damage| damage_error(path, file, &damage))
}

/// The error about a damaged file.
pub(crate) fn damage_error(path: &Path, file: &File, damage: &Damage) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn sample() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let file = dir.path().join("data.mdb");
        (dir, file)
    }

    #[test]
    fn a_foreign_or_cut_file_is_refused_unchanged() {
        let (dir, file) = sample();
        check_before_mmap(&file).unwrap();
        let good = std::fs::read(&file).unwrap();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        let both = |at: usize, value: u64| {
            with(&|bad| {
                for meta in [0, 4096] {
                    bad[meta + 16 + at..][..8].copy_from_slice(&value.to_ne_bytes());
                }
            })
        };
        for bad in [
            b"not a database".to_vec(),
            good[..4096].to_vec(),
            good[..good.len() - 4096].to_vec(),
            with(&|bad| bad[16] ^= 1),
            with(&|bad| bad[20] = 9),
            both(112, 1 << 40),
            both(120, 1 << 60),
            both(128, 9),
            both(104, 77),
        ] {
            std::fs::write(&file, &bad).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(
                matches!(&error, Error::DataLoss(m) if m.contains("lmdb-images recover --root")),
                "{error}"
            );
            assert_eq!(std::fs::read(&file).unwrap(), bad);
        }
    }
}
