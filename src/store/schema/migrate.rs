//! Migrating a store from an older schema (the [parent module](super) lists the versions).
//!
//! One transaction runs all steps and writes the new version, so a migration is complete or without
//! effect. Each step migrates a store by one version.

use std::ops::Bound;

use heed::types::Bytes;
use heed::{Database, RwTxn};

use crate::store::schema::index;
use crate::store::schema::keys::ROOT_PREFIX;
use crate::store::schema::table::{OwnedOp, Table};
use crate::store::schema::value;

/// Index entries are sorted and written in batches of about this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// A database of a transaction that may have created it.
type Stored<'e> = Database<'e, Bytes, Bytes>;

/// Since this version the journal has its present format, and a migration leaves it in place.
pub(crate) const JOURNAL_AS_NOW: u32 = 4;

/// Migrates a store of version `from`, with the writes in its journal, to version [`JOURNAL_AS_NOW`]. The
/// databases are records, index, expiring and aside.
pub(crate) fn from<'e>(
    from: u32,
    txn: &mut RwTxn<'_>,
    [records, index, expiring, aside]: [Stored<'e>; 4],
    journal: &[OwnedOp],
) -> heed::Result<()> {
    if from < 2 {
        build_index(txn, records, index)?;
    }
    // Version 4 has another format of the journal, so the old journal's writes go to LMDB's file.
    for (table, key, value) in journal {
        let stored = match table {
            Table::Records => records,
            Table::Index => index,
            Table::Expiring => expiring,
            Table::SetAside => aside,
            // Such a journal has none.
            Table::Log => continue,
        };
        match value {
            Some(value) => stored.put(txn, key, value)?,
            None => drop(stored.delete(txn, key)?),
        }
    }
    Ok(())
}

/// Version 2: builds the index from the records. A damaged record gets no entries: no call returns it.
fn build_index(txn: &mut RwTxn<'_>, records: Stored<'_>, index: Stored<'_>) -> heed::Result<()> {
    index.clear(txn)?;
    let mut from = ROOT_PREFIX.to_vec();
    loop {
        let (mut batch, mut size, mut last) = (Vec::new(), 0, None);
        let bounds = (Bound::Excluded(from.as_slice()), Bound::Unbounded);
        for record in records.range(txn, &bounds)? {
            let (key, value) = record?;
            if let Ok(message) = value::decode(key, value) {
                let entries = index::entries(key, message);
                size += entries.iter().map(Vec::len).sum::<usize>();
                batch.extend(entries);
            }
            last = Some(key);
            if size > BATCH_BYTES {
                break;
            }
        }
        let Some(last) = last.map(<[u8]>::to_vec) else { return Ok(()) };
        from = last;
        batch.sort_unstable();
        for entry in batch {
            index.put(txn, &entry, b"")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::dir::files::JOURNAL_FILE;
    use crate::store::journal::entry::WriteBatch;
    use heed::CommitOrAbort;
    use heed::types::{Bytes, Str};
    use protobuf::Message;

    use super::*;
    use crate::api::images::Image;
    use crate::model::Namespace;
    use crate::store::journal;
    use crate::store::journal::entry::{JournalEntry, sign};
    use crate::store::lmdb::open::map;
    use crate::store::schema::databases;
    use crate::store::schema::keys::key;
    use crate::store::schema::log_meta::LogMeta;
    use crate::store::{Kind, ReadOnlyStore, Records, Store};

    fn image(name: &str) -> Vec<u8> {
        let mut image = Image { name: name.into(), ..Image::default() };
        image.labels.insert("label".into(), format!("of {name}"));
        image.target.mut_or_insert_default().digest = format!("sha256:{name}");
        image.write_to_bytes().unwrap()
    }

    const STORE_UUID: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

    /// A store as version 1 wrote it.
    fn version_1(root: &std::path::Path, records: &[(Vec<u8>, Vec<u8>)]) {
        let env = map(root).unwrap();
        let txn = env.write_txn().unwrap();
        env.create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            meta.put(txn, "schema", &1u32.to_le_bytes())?;
            meta.put(txn, "uuid", STORE_UUID.as_bytes())?;
            for other in ["expiring", "aside"] {
                opener.create_database::<Bytes, Bytes>(txn, Some(other))?;
            }
            let stored = opener.create_database::<Bytes, Bytes>(txn, Some("records"))?;
            for (key, value) in records {
                stored.put(txn, key, value)?;
            }
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
        })
        .unwrap();
    }

    #[test]
    fn a_store_of_version_1_gets_its_index_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let namespace = Namespace::parse("n").unwrap();
        // Enough for more than one batch.
        let names: Vec<_> = (0..12_000).map(|i| format!("{i:0380}")).collect();
        let mut records: Vec<_> = names
            .iter()
            .map(|name| {
                let key = key(&namespace, Kind::Image, name);
                let value = value::encode(&key, &image(name));
                (key, value)
            })
            .collect();
        let lease = key(&namespace, Kind::Lease, "l");
        records.push((lease.clone(), value::encode(&lease, b"")));
        records.push((key(&namespace, Kind::Image, "bad"), b"rotten".to_vec()));
        version_1(dir.path(), &records);

        let refused = ReadOnlyStore::open(dir.path()).unwrap_err();
        assert!(refused.message().contains("has schema version 1"), "{refused}");
        assert!(refused.message().contains("lmdb-images serve"), "{refused}");

        let check = |store: &Store| {
            assert_eq!(store.uuid(), STORE_UUID);
            let opened = store.environment.acquire().unwrap();
            let txn = opened.env.read_txn().unwrap();
            let tables = &opened.tables;
            let mut expected: Vec<_> = records
                .iter()
                .filter_map(|(key, value)| Some((key, value::decode(key, value).ok()?)))
                .flat_map(|(key, message)| index::entries(key, message))
                .collect();
            expected.sort();
            assert_eq!(expected.len(), 2 * names.len());
            let index = tables.index.iter(&txn).unwrap();
            assert!(index.map(|entry| entry.unwrap().0).eq(expected.iter().map(Vec::as_slice)));
            assert_eq!(tables.records.len(&txn).unwrap(), records.len() as u64);
        };
        for _ in 0..2 {
            check(&Store::open(dir.path()).unwrap());
        }
        let found = ReadOnlyStore::open(dir.path()).unwrap();
        let whole = |s: &crate::store::Snapshot<'_>| {
            s.record(&namespace, Kind::Image, &names[7]).map(|r| r == Some(&image(&names[7])))
        };
        assert_eq!(found.read(whole), Ok(true));
    }

    /// A store as that version closed it: it has no log.
    fn closed_by_version(version: u32, root: &std::path::Path) {
        version_1(root, &[]);
        let env = map(root).unwrap();
        let txn = env.write_txn().unwrap();
        env.create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            meta.put(txn, "schema", &version.to_le_bytes())?;
            meta.put(txn, "checkpoint", &41u64.to_le_bytes())?;
            opener.create_database::<Bytes, Bytes>(txn, Some("index"))?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
        })
        .unwrap();
        env.prepare_for_closing().wait();
    }

    #[test]
    fn the_migrating_transaction_itself_begins_the_log() {
        for version in [1, 3, 4] {
            let dir = tempfile::tempdir().unwrap();
            closed_by_version(version, dir.path());
            // Killed behind that transaction: the store has the new schema, and is read before it is
            // opened to write.
            let env = map(dir.path()).unwrap();
            let no_journal = |_: &str, _| Ok(Vec::new());
            let (tables, _) = databases::open(&env, dir.path(), &no_journal).unwrap();
            let meta = LogMeta::read(&env.read_txn().unwrap(), &tables).unwrap();
            let epoch = meta.epoch.unwrap_or_else(|| panic!("version {version}: no epoch"));
            assert_eq!((meta.first, meta.keep), (1, None), "version {version}");
            env.prepare_for_closing().wait();
            // It is the epoch of the log from then on.
            let head = Store::open(dir.path()).unwrap().log_head().unwrap();
            assert_eq!((head.epoch, head.first, head.last), (epoch, 1, 0), "version {version}");
        }
    }

    #[test]
    fn a_migration_by_a_daemon_without_a_log_creates_no_log() {
        for version in [1, 3, 4] {
            let dir = tempfile::tempdir().unwrap();
            closed_by_version(version, dir.path());
            let off = Some(crate::store::Retention { bytes: 0, age: None });
            assert_eq!(Store::open_and_keep(dir.path(), off).unwrap().log_head(), None);
            // A command keeps the daemon's setting.
            assert_eq!(Store::open(dir.path()).unwrap().log_head(), None, "version {version}");
        }
    }

    /// An entry of a journal of schema 3, which has no transaction.
    fn entry_of_schema_3(checkpoint: u64, number: u32, changes: WriteBatch) -> Vec<u8> {
        let entry = JournalEntry {
            checkpoint,
            base: Some(0),
            number,
            uuid: STORE_UUID.into(),
            batch: changes,
        };
        let mut bytes = entry.encode().unwrap();
        bytes.drain(24..32);
        bytes[..8].copy_from_slice(b"lmdbimj1");
        sign(&mut bytes);
        bytes.resize(journal::layout::SECTOR, 0);
        bytes
    }

    #[test]
    fn a_killed_store_of_version_3_keeps_the_changes_of_its_journal() {
        let namespace = Namespace::parse("n").unwrap();
        let record = |name: &str| {
            let key = key(&namespace, Kind::Image, name);
            (key.clone(), value::encode(&key, &image(name)))
        };
        let put = |name: &str| {
            let mut changes = WriteBatch::new(journal::layout::MAX_ENTRY_BYTES);
            let (key, value) = record(name);
            changes.push((super::Table::Records, &key, Some(&value)));
            changes
        };
        for (missing, expected) in [(None, Ok(3)), (Some(0), Err("entry 0 is missing"))] {
            let dir = tempfile::tempdir().unwrap();
            let stored = record("stored");
            version_1(dir.path(), std::slice::from_ref(&stored));
            let env = map(dir.path()).unwrap();
            let txn = env.write_txn().unwrap();
            env.create_databases_and_commit(txn, |opener, txn| {
                let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
                meta.put(txn, "schema", &3u32.to_le_bytes())?;
                meta.put(txn, "checkpoint", &41u64.to_le_bytes())?;
                opener.create_database::<Bytes, Bytes>(txn, Some("index"))?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
            })
            .unwrap();
            env.prepare_for_closing().wait();
            // The last one follows an earlier checkpoint.
            let entries = [(41, 0, "a"), (41, 1, "b"), (40, 2, "taken")];
            let mut bytes: Vec<u8> = entries
                .into_iter()
                .flat_map(|(checkpoint, number, name)| {
                    entry_of_schema_3(checkpoint, number, put(name))
                })
                .collect();
            if let Some(number) = missing {
                bytes[number * journal::layout::SECTOR + 70] ^= 1;
            }
            bytes.resize(journal::layout::LENGTH, 0);
            std::fs::write(dir.path().join(JOURNAL_FILE), &bytes).unwrap();
            for _ in 0..2 {
                let count = Store::open(dir.path())
                    .and_then(|store| store.read(|s| Ok(s.scan(&namespace, Kind::Image)?.count())));
                match (&count, expected) {
                    (Err(refused), Err(why)) => assert!(refused.message().contains(why)),
                    (count, expected) => assert_eq!(*count, Ok(expected.unwrap())),
                }
            }
        }
    }
}
