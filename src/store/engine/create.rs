//! A new store, in a folder that never held one.

use crate::model::{Context, Result};
use crate::store::dir::files::DATA_FILE;
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;
use crate::store::dir::{permissions, store_id};
use crate::store::lmdb::open::map;
use crate::store::schema::databases;

/// Creates a store if the folder never held one.
pub(crate) fn create_if_new(root: &StoreDir) -> Result<()> {
    if permissions::stat_regular(&root.data_file())?.is_some_and(|found| found.len() > 0) {
        return Ok(());
    }
    store_id::check_without_data(root.path())?;
    create(root)
}

/// Creates an empty store in a temporary folder and renames it into place, so that a power cut leaves
/// no store instead of an incomplete one, which the next start would refuse.
fn create(root: &StoreDir) -> Result<()> {
    let scratch = ScratchFolder::create_in(root.path())?;
    let env = map(scratch.path())?;
    databases::open(&env, scratch.path(), &|_, _| Ok(Vec::new()))?;
    env.prepare_for_closing().wait();
    let made = scratch.path().join(DATA_FILE);
    std::fs::File::open(&made)
        .and_then(|file| file.sync_all())
        .or_internal(format_args!("making a store in {}", root.path().display()))?;
    std::fs::rename(&made, root.data_file())
        .or_internal(format_args!("making a store in {}", root.path().display()))?;
    root.sync()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{Error, Namespace};
    use crate::store::dir::files::{JOURNAL_FILE, LOCK_FILE, STORE_ID_FILE};
    use crate::store::{Kind, Records, Snapshot, Store, Transaction};

    #[test]
    fn an_empty_or_missing_data_file_beside_others_of_a_store_is_damage_and_changes_nothing() {
        for other in [LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE] {
            for length in [Some(0), None] {
                let dir = tempfile::tempdir().unwrap();
                let namespace = Namespace::parse("n").unwrap();
                let store = Store::open(dir.path()).unwrap();
                let work = {
                    let namespace = namespace.clone();
                    move |change: &mut Transaction<'_>| {
                        change.put(&namespace, Kind::Lease, "l", b"", None)
                    }
                };
                store.writer().write_blocking(work).unwrap();
                drop(store);
                let all = [DATA_FILE, LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE];
                for file in all.into_iter().filter(|file| *file != other) {
                    fs::remove_file(dir.path().join(file)).unwrap();
                }
                if length.is_some() {
                    fs::write(dir.path().join(DATA_FILE), "").unwrap();
                }
                let refused = Store::open(dir.path()).unwrap_err();
                assert!(
                    matches!(&refused, Error::DataLoss(m) if m.contains("missing or empty")),
                    "{refused}"
                );
                let found = permissions::stat_regular(&dir.path().join(DATA_FILE)).unwrap();
                assert_eq!(found.map(|found| found.len()), length);
                fs::remove_file(dir.path().join(other)).unwrap();
                let store = Store::open(dir.path()).unwrap();
                let is_empty = |snapshot: &Snapshot<'_>| {
                    Ok(snapshot.scan(&namespace, Kind::Lease)?.next().is_none())
                };
                assert!(store.read(is_empty).unwrap());
            }
        }
    }
}
