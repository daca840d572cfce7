//! The content of the disk after a kill, and the stores that are refused when they are opened.

use crate::store::dir::files::DATA_FILE;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;
use crate::model::Namespace;
use crate::store::engine::open_environment;
use crate::store::journal;
use crate::store::{Kind, ReadOnlyStore, Records, Snapshot, Store};

/// Where `lock.mdb` has the number of the last transaction.
const NUMBER_AT: u64 = 8;

fn namespace() -> Namespace {
    Namespace::parse("n").unwrap()
}

fn put(store: &Store, name: &str, size: usize) {
    let name = name.to_owned();
    let work = move |c: &mut crate::store::Transaction<'_>| {
        c.put(&namespace(), Kind::Lease, &name, &vec![7; size], None)
    };
    store.writer().write_blocking(work).unwrap();
}

fn names(snapshot: &Snapshot<'_>) -> Result<Vec<String>> {
    snapshot.scan(&namespace(), Kind::Lease)?.map(|entry| Ok(entry?.display_name())).collect()
}

/// A copy of the files of the store, as a crash would leave them.
fn crashed(store: &Store) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [DATA_FILE, JOURNAL_FILE] {
        fs::copy(store.root().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// A store that makes no checkpoint by itself for a while.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn checkpoint(store: &Store) {
    store.checkpoint().unwrap();
}

#[test]
fn after_a_crash_each_process_that_opens_the_store_has_the_answered_writes() {
    let (_dir, store) = store();
    checkpoint(&store);
    for (name, then) in [("a", false), ("b", true), ("c", false), ("d", false)] {
        put(&store, name, 10);
        if then {
            checkpoint(&store);
        }
        let all: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|n| *n <= name).collect();
        let crash = crashed(&store);
        assert_eq!(ReadOnlyStore::open(crash.path()).unwrap().read(names).unwrap(), all);
        for _ in 0..2 {
            assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), all);
        }
        assert_eq!(ReadOnlyStore::open(crash.path()).unwrap().read(names).unwrap(), all);
    }
}

/// LMDB writes the meta page of a transaction, and then the number that transactions begin with.
#[test]
fn a_reader_beside_a_daemon_that_was_killed_between_meta_page_and_number_ends() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    checkpoint(&store);
    put(&store, "b", 10);
    let before = crashed(&store);
    checkpoint(&store);
    let crash = crashed(&store);
    fs::copy(before.path().join(JOURNAL_FILE), crash.path().join(JOURNAL_FILE)).unwrap();
    let reader = ReadOnlyStore::open(crash.path()).unwrap();
    let earlier = reader.last_commit() - 1;
    let lock = fs::File::options().write(true).open(crash.path().join("lock.mdb")).unwrap();
    lock.write_all_at(&earlier.to_ne_bytes(), NUMBER_AT).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || done.send(reader.read(names)));
    let found = wait.recv_timeout(Duration::from_secs(20)).expect("the reader does not end");
    // It has closed the store then.
    thread.join().unwrap().unwrap();
    assert_eq!(found.unwrap(), ["a", "b"]);
    assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), ["a", "b"]);
}

#[test]
fn a_journal_goes_on_where_the_process_before_ended() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    let crash = crashed(&store);
    let next = Store::open(crash.path()).unwrap();
    put(&next, "b", 10);
    let again = crashed(&next);
    assert_eq!(Store::open(again.path()).unwrap().read(names).unwrap(), ["a", "b"]);
}

#[test]
fn a_change_that_is_too_large_for_the_journal_is_in_the_file_at_once() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    put(&store, "large", journal::layout::MAX_ENTRY_BYTES);
    assert!(store.environment.acquire().unwrap().version.overlay().is_empty());
    put(&store, "z", 10);
    let crash = crashed(&store);
    assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), ["a", "large", "z"]);
}

#[test]
fn a_store_that_was_closed_in_order_needs_no_journal() {
    let (dir, store) = store();
    put(&store, "a", 10);
    drop(store);
    fs::remove_file(dir.path().join(JOURNAL_FILE)).unwrap();
    assert_eq!(ReadOnlyStore::open(dir.path()).unwrap().read(names).unwrap(), ["a"]);
    assert_eq!(Store::open(dir.path()).unwrap().read(names).unwrap(), ["a"]);
}

fn refusals(root: &std::path::Path) -> [String; 2] {
    let refused = [
        Store::open(root).map(drop).unwrap_err(),
        ReadOnlyStore::open(root).map(drop).unwrap_err(),
    ];
    refused.map(|refused| match refused {
        Error::DataLoss(why) if why.contains("recover") => why,
        other => panic!("{other}"),
    })
}

#[test]
fn a_journal_that_is_missing_cut_zeroed_or_damaged_is_refused() {
    let (_dir, store) = store();
    checkpoint(&store);
    put(&store, "a", 10);
    type Harm = fn(&mut Vec<u8>) -> bool;
    let harms: [(&str, Harm); 5] = [
        ("missing", |_| false),
        ("0 bytes", |bytes| {
            bytes.clear();
            true
        }),
        ("1000 bytes", |bytes| {
            bytes.truncate(1000);
            true
        }),
        ("header is damaged", |bytes| {
            bytes.fill(0);
            true
        }),
        ("header is damaged", |bytes| {
            bytes[40] ^= 1;
            true
        }),
    ];
    for (why, harm) in harms {
        let crash = crashed(&store);
        let file = crash.path().join(JOURNAL_FILE);
        let mut bytes = fs::read(&file).unwrap();
        if harm(&mut bytes) {
            fs::write(&file, &bytes).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        for refused in refusals(crash.path()) {
            assert!(refused.contains(why), "{why}: {refused}");
        }
    }
}

#[test]
fn a_data_file_that_is_missing_or_empty_is_not_a_new_store() {
    let (dir, store) = store();
    put(&store, "a", 10);
    let data = |root: &std::path::Path| root.join(DATA_FILE);
    for empty in [false, true] {
        let crash = crashed(&store);
        let harm = || {
            if empty {
                fs::write(data(crash.path()), "").unwrap();
            } else {
                fs::remove_file(data(crash.path())).unwrap();
            }
        };
        harm();
        // By the journal alone, then by what the folder remembers alone.
        for refused in refusals(crash.path()) {
            assert!(refused.contains("missing or empty"), "{refused}");
        }
        fs::copy(dir.path().join("store-id"), crash.path().join("store-id")).unwrap();
        fs::remove_file(crash.path().join(JOURNAL_FILE)).unwrap();
        for refused in refusals(crash.path()) {
            assert!(refused.contains(store.uuid()), "{refused}");
        }
    }
}

#[test]
fn a_data_file_of_another_store_is_refused() {
    let ((_dir, store), (other_dir, other)) = (store(), store());
    put(&store, "a", 10);
    drop(other);
    let crash = crashed(&store);
    fs::copy(other_dir.path().join("store-id"), crash.path().join("store-id")).unwrap();
    for refused in [
        Store::open(crash.path()).map(drop).unwrap_err(),
        ReadOnlyStore::open(crash.path()).map(drop).unwrap_err(),
    ] {
        assert!(refused.message().contains("the folder held the store"), "{refused}");
    }
}

#[test]
fn a_journal_of_another_checkpoint_or_of_another_store_is_refused() {
    let ((_dir, store), (_other_dir, other)) = (store(), store());
    checkpoint(&store);
    put(&store, "a", 10);
    let old = crashed(&store);
    checkpoint(&store);
    put(&store, "b", 10);
    put(&other, "c", 10);
    for (from, why) in [(&store, "unknown checkpoint"), (&other, other.uuid())] {
        fs::copy(from.root().join(JOURNAL_FILE), old.path().join(JOURNAL_FILE)).unwrap();
        for refused in refusals(old.path()) {
            assert!(refused.contains(why), "{refused}");
        }
    }
}

#[test]
fn entries_before_the_last_checkpoint_are_ignored() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    let before = crashed(&store);
    checkpoint(&store);
    let after = crashed(&store);
    // As a kill between the checkpoint and the write of the header leaves it.
    let file = JOURNAL_FILE;
    fs::copy(before.path().join(file), after.path().join(file)).unwrap();
    for _ in 0..2 {
        assert_eq!(ReadOnlyStore::open(after.path()).unwrap().read(names).unwrap(), ["a"]);
        assert_eq!(Store::open(after.path()).unwrap().read(names).unwrap(), ["a"]);
    }
}

#[test]
fn a_journal_that_lacks_entries_is_refused() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    put(&store, "b", 10);
    let crash = crashed(&store);
    let file = crash.path().join(JOURNAL_FILE);
    let mut bytes = fs::read(&file).unwrap();
    bytes[journal::layout::SECTOR + 70] ^= 1;
    fs::write(&file, bytes).unwrap();
    for refused in refusals(crash.path()) {
        assert!(refused.contains("entry 0 is missing"), "{refused}");
    }
}

#[test]
fn a_copy_has_what_is_recent() {
    let (_dir, store) = store();
    put(&store, "a", 10);
    checkpoint(&store);
    put(&store, "b", 10);
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join(DATA_FILE);
    fs::write(&file, "").unwrap();
    let crash = crashed(&store);
    ReadOnlyStore::open(crash.path()).unwrap().copy_to(&file).unwrap();
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1);
    assert_eq!(Store::open(copy.path()).unwrap().read(names).unwrap(), ["a", "b"]);
}

#[test]
fn entries_of_the_log_make_no_checkpoint_due() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let root = StoreDir::lock(dir.path()).unwrap();
    let (opened, _) = open_environment::open(&root, 0, (None, ShownLog::default())).unwrap();
    let mut overlay = Overlay::default();
    let mut add = |table, count: usize| {
        for number in 0..count {
            overlay.apply((table, &number.to_be_bytes(), Some(b"value")));
        }
        opened.version.publish(overlay.clone());
        opened.checkpoint_due()
    };
    assert!(!add(Table::Records, CHECKPOINT_KEYS - 1));
    assert!(!add(Table::Log, 2 * CHECKPOINT_KEYS));
    assert!(add(Table::Index, 1));
}
