//! A store of schema 4, which has no log, is started by this version, and the power is cut at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fastrand::Rng;
use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvOpenOptions, WithoutTls};
use lmdb_images::model::Namespace;
use lmdb_images::store::{Kind, Records, Store};

use super::Recorded;
use super::disk::{DiskEntry, Disks, PAGE, SECTOR, State, Write};
use crate::support::settings::{seed, setting};
use crate::support::workload::{NAMESPACE, record, whole};
use protobuf::Message;

/// The databases of schema 4.
const DATABASES: [&str; 5] = ["meta", "records", "index", "expiring", "aside"];

/// What the daemon finds: LMDB's file has the first names, the journal the others.
const STORED: [&str; 2] = ["stored/1", "stored/2"];
const RECENT: [&str; 2] = ["recent/1", "recent/2"];

fn open(folder: &Path) -> Env<WithoutTls> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(8).map_size(64 << 20);
    // SAFETY: the test is the only user of the file.
    unsafe { options.open(folder) }.unwrap()
}

/// All that is in a data file, by databases.
fn read(folder: &Path) -> BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>> {
    let env = open(folder);
    let txn = env.read_txn().unwrap();
    let mut found = BTreeMap::new();
    env.open_databases_and_commit(txn, |opener, txn| {
        for name in DATABASES.into_iter().chain(["log"]) {
            let Some(database) = opener.open_database::<Bytes, Bytes>(txn, Some(name))? else {
                continue;
            };
            let pairs = database.iter(txn)?.map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())));
            found.insert(name, pairs.collect::<heed::Result<_>>()?);
        }
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
    })
    .unwrap();
    env.prepare_for_closing().wait();
    found
}

fn put(store: &Store, name: &'static str) {
    let message = record(name, 1).write_to_bytes().unwrap();
    let work = move |change: &mut lmdb_images::store::Transaction<'_>| {
        change.skip_log();
        change.put(&Namespace::parse(NAMESPACE).unwrap(), Kind::Image, name, &message, None)
    };
    store.writer().write_blocking(work).unwrap();
}

/// Makes the files of a store of schema 4 in `root`, as a killed daemon left them.
fn store_of_version_4(root: &Path) {
    let made = tempfile::tempdir().unwrap();
    let store = Store::open(made.path()).unwrap();
    STORED.into_iter().for_each(|name| put(&store, name));
    store.detach_journal().unwrap();
    RECENT.into_iter().for_each(|name| put(&store, name));
    let killed = tempfile::tempdir().unwrap();
    fs::create_dir(root).unwrap();
    for file in ["data.mdb", "journal", "store-id"] {
        fs::copy(made.path().join(file), killed.path().join(file)).unwrap();
    }
    for file in ["journal", "store-id"] {
        fs::copy(killed.path().join(file), root.join(file)).unwrap();
    }
    let databases = read(killed.path());
    let to = open(root);
    let txn = to.write_txn().unwrap();
    to.create_databases_and_commit(txn, |opener, txn| {
        for name in DATABASES {
            let new = opener.create_database::<Bytes, Bytes>(txn, Some(name))?;
            for (key, value) in &databases[name] {
                match key.as_slice() {
                    b"schema" => new.put(txn, key, &4_u32.to_le_bytes())?,
                    key if key.starts_with(b"log_") => {}
                    key => new.put(txn, key, value)?,
                }
            }
        }
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
    })
    .unwrap();
    to.prepare_for_closing().wait();
    fs::remove_file(root.join("lock.mdb")).unwrap();
}

/// The schema that a data file has. It has all that belongs to the log, or nothing of it.
fn schema(folder: &Path) -> u32 {
    let databases = read(folder);
    let meta = &databases["meta"];
    let version = u32::from_le_bytes(meta[&b"schema"[..]].as_slice().try_into().unwrap());
    let epoch = meta.get(&b"log_epoch"[..]).is_some_and(|epoch| epoch.len() == 16);
    let parts = [databases.contains_key("log"), epoch];
    assert_eq!(parts, [version == 5; 2], "parts of the log in schema {version}");
    version
}

#[test]
fn a_migrated_store_has_one_schema_or_the_other_after_a_power_cut() {
    let most = setting("LMDB_IMAGES_POWER_STATES").unwrap_or(8) as usize;
    let dir = tempfile::tempdir().unwrap();
    let recorded = Recorded::new(dir.path());
    let root = recorded.dir.join("root");
    store_of_version_4(&root);
    let [data, journal] = ["data.mdb", "journal"].map(|file| fs::read(root.join(file)).unwrap());
    recorded.start().stop();
    let log = DiskEntry::all(&fs::read(&recorded.log).unwrap());

    let mut disks = Disks::default();
    disks.apply(0, &DiskEntry::Placed(data));
    disks.apply(1, &DiskEntry::Write { offset: 0, data: journal, outcome: Write::Synced });
    disks.apply(0, &DiskEntry::FolderSynced);
    let mut random = Rng::with_seed(seed());
    let (mut states, mut schemas) = (0, [0, 0]);
    for (_, file, entry) in &log {
        disks.apply(*file, entry);
        let mut look = |data: State<'_>, journal: State<'_>| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("data.mdb"), data.unwrap()).unwrap();
            let version = schema(folder.path());
            schemas[version as usize - 4] += 1;
            states += 1;
            fs::remove_file(folder.path().join("lock.mdb")).unwrap();
            fs::write(folder.path().join("journal"), journal.unwrap()).unwrap();
            let store = Store::open(folder.path()).unwrap();
            let head = store.log_head().unwrap();
            assert_eq!((head.first, head.last), (1, 0));
            let namespace = Namespace::parse(NAMESPACE).unwrap();
            for name in STORED.into_iter().chain(RECENT) {
                let found = store.read(|s| Ok(s.record(&namespace, Kind::Image, name)?.is_some()));
                assert_eq!(found, Ok(true), "{name} in schema {version}");
            }
            drop(store);
            whole(folder.path());
        };
        let mut pick = |below: usize| random.usize(..below);
        for unit in [PAGE, SECTOR] {
            disks.states(unit, most, &mut pick, &mut look);
        }
    }
    println!("{} calls recorded, {states} states: {schemas:?} of schemas 4 and 5", log.len());
    assert!(schemas.iter().all(|count| *count > 0), "{schemas:?}");
}
