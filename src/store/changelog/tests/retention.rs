//! Which entries a checkpoint removes.

use super::*;
use crate::store::Retention;

#[test]
fn old_entries_are_removed_and_the_file_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Some(Retention { bytes: 64 << 10, age: None });
    let store = Store::open_and_keep(dir.path(), keep).unwrap();
    let mut sizes = Vec::new();
    for round in 0..40 {
        (0..50).for_each(|_| put(&store, 0, 500));
        store.checkpoint().unwrap();
        if round > 5 {
            sizes.push(dir.path().join(DATA_FILE).metadata().unwrap().len());
        }
        let (bytes, _) = store.read(|s| s.log_size()).unwrap();
        assert!(bytes <= 64 << 10, "{bytes}");
    }
    let head = store.log_head().unwrap();
    assert_eq!(head.last, 2000);
    assert!((20..1000).contains(&head.len()), "{head:?}");
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    drop(store);
    // Less than one entry takes.
    let keep = Some(Retention { bytes: 1, age: None });
    let store = Store::open_and_keep(dir.path(), keep).unwrap();
    for _ in 0..3 {
        put(&store, 0, 500);
        store.checkpoint().unwrap();
    }
    let head = store.log_head().unwrap();
    assert_eq!((head.first, head.last), (2003, 2003));
}

#[test]
fn large_entries_after_many_small_ones_do_not_make_the_log_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Retention { bytes: 1 << 20, age: None };
    let store = Store::open_and_keep(dir.path(), Some(keep)).unwrap();
    (0..5_000).for_each(|_| put(&store, 0, 5));
    store.checkpoint().unwrap();
    let small = store.log_head().unwrap().len();
    assert!(small > 3_000, "{small}");
    for round in 0..10 {
        // Two states of each: 240 KiB of entries, and no checkpoint before the next line.
        (0..20).for_each(|_| put(&store, 1, 6_000));
        store.checkpoint().unwrap();
        let (bytes, _) = store.read(|s| s.log_size()).unwrap();
        assert!(bytes <= 1 << 20, "{bytes} after round {round}");
    }
}

#[test]
fn old_entries_are_removed_and_a_reader_gets_the_first_position() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Retention { bytes: u64::MAX, age: Some(std::time::Duration::from_secs(3600)) };
    let store = Store::open_and_keep(dir.path(), Some(keep)).unwrap();
    (0..10).for_each(|_| put(&store, 0, 5));
    store.checkpoint().unwrap();
    assert_eq!(store.log_head().unwrap().first, 1);
    // As if some were made long ago.
    let age = |change: &mut Transaction<'_>| {
        for seq in 1..=7_u64 {
            let key = seq.to_be_bytes();
            let old =
                Change { seq, commit_last: seq, ..Change::default() }.write_to_bytes().unwrap();
            let sealed = crate::store::schema::value::encode(&key, &old);
            change.set(crate::store::schema::table::Table::Log, &key, &sealed)?;
        }
        Ok(())
    };
    store.writer().write_blocking(age).unwrap();
    let mut watched = store.watch_log();
    watched.mark_unchanged();
    store.checkpoint().unwrap();
    assert!(watched.has_changed().unwrap());
    assert_eq!(watched.borrow().unwrap().first, 8);
    let page = store.read_log(2, 1 << 20).unwrap();
    assert_eq!((page.head.unwrap().first, page.entries[0].seq, page.entries.len()), (8, 8, 3));
}
