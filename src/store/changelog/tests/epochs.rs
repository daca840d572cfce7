//! When the log begins another epoch.

use super::*;
use crate::api::catalog::Kind;
use crate::store::Retention;

#[test]
fn turning_the_log_off_removes_it_and_turning_it_on_begins_another_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let open = |keep| Store::open_and_keep(dir.path(), keep).unwrap();
    let off = Some(Retention { bytes: 0, age: None });
    let store = open(None);
    put(&store, 0, 5);
    let first = store.log_head().unwrap();
    // Killed: what is only in the journal must not come back.
    let crash = crashed(dir.path());
    drop(store);
    let store = Store::open_and_keep(crash.path(), off).unwrap();
    assert_eq!((store.log_head(), store.read_log(0, 1000).unwrap().entries.len()), (None, 0));
    put(&store, 0, 5);
    store.checkpoint().unwrap();
    drop(store);
    // A command keeps the daemon's setting.
    let store = Store::open(crash.path()).unwrap();
    put(&store, 0, 5);
    assert_eq!((store.log_head(), store.read(|s| s.log_head()).unwrap()), (None, None));
    drop(store);
    let store = Store::open_and_keep(crash.path(), Some(Retention::default())).unwrap();
    let head = store.log_head().unwrap();
    assert_eq!((head.first, head.last, head.chain), (1, 0, 0));
    assert_ne!(head.epoch, first.epoch);
    put(&store, 0, 5);
    drop(store);
    let again = Store::open(crash.path()).unwrap().log_head().unwrap();
    assert_eq!((again.epoch, again.last), (head.epoch, 1));
}

#[test]
fn another_epoch_keeps_the_entries_and_goes_on_behind_them() {
    let (dir, store) = store();
    (0..3).for_each(|_| put(&store, 0, 5));
    let before = store.log_head().unwrap();
    store.renew_log_epoch().unwrap();
    let after = store.log_head().unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(LogHead { epoch: before.epoch, ..after }, before);
    put(&store, 0, 5);
    assert_eq!(logged(&store).len(), 4);
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().log_head().unwrap().epoch, after.epoch);
}

#[test]
fn a_damaged_end_of_the_log_begins_another_epoch() {
    let (dir, store) = store();
    (0..3).for_each(|_| put(&store, 0, 5));
    let before = store.log_head().unwrap();
    store.checkpoint().unwrap();
    let rotten = |change: &mut Transaction<'_>| {
        let last = 3_u64.to_be_bytes();
        change.set(crate::store::schema::table::Table::Log, &last, b"rotten")
    };
    store.writer().write_blocking(rotten).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let head = store.log_head().unwrap();
    assert_ne!(head.epoch, before.epoch);
    assert_eq!((head.first, head.last), (1, 0));
    put(&store, 0, 5);
    assert_eq!(logged(&store).len(), 1);
}

/// Puts an entry into the journal past the log, with a right checksum. `seq` is where it is put.
fn forge(store: &Store, seq: u64, entry: &[u8]) {
    let key = seq.to_be_bytes();
    let sealed = crate::store::schema::value::encode(&key, entry);
    let put = move |change: &mut Transaction<'_>| {
        change.set(crate::store::schema::table::Table::Log, &key, &sealed)
    };
    store.writer().write_blocking(put).unwrap();
}

/// The entry with that number, as if it followed one with another chain.
fn of_another_chain(store: &Store, seq: u64) -> Vec<u8> {
    let change = Change { kind: Kind::KIND_UPDATED.into(), name: "a".into(), ..Change::default() };
    let body = change.write_to_bytes().unwrap();
    let before = store.log_head().unwrap().chain ^ 1;
    entry::finish(&body, seq, seq, before).unwrap().0
}

#[test]
fn entries_of_the_journal_that_do_not_follow_one_another_begin_another_epoch() {
    type Forge = fn(&Store);
    let cases: [(&str, bool, Forge); 4] = [
        ("nothing", false, |_| {}),
        ("the oldest in the journal follows another than the newest in LMDB", true, |store| {
            forge(store, 4, &of_another_chain(store, 4));
        }),
        ("one within the journal follows another", true, |store| {
            put(store, 0, 5);
            forge(store, 5, &of_another_chain(store, 5));
        }),
        ("one is missing", true, |store| {
            let head = store.log_head().unwrap();
            let (next, _) = entry::finish(b"", head.last + 2, head.last + 2, head.chain).unwrap();
            forge(store, head.last + 2, &next);
        }),
    ];
    for (what, is_another, forge) in cases {
        let (dir, store) = store();
        (0..3).for_each(|_| put(&store, 0, 5));
        store.checkpoint().unwrap();
        let before = store.log_head().unwrap();
        // Killed: the next start finds this in the journal.
        forge(&store);
        let crash = crashed(dir.path());
        let store = Store::open(crash.path()).unwrap();
        let after = store.log_head().unwrap();
        assert_eq!(after.epoch != before.epoch, is_another, "{what}");
        assert_eq!(after.last, if is_another { 0 } else { 3 }, "{what}");
        // The records are untouched, and the log goes on.
        put(&store, 0, 5);
        let kind = logged(&store).last().unwrap().kind.unwrap();
        assert_eq!(kind, Kind::KIND_UPDATED, "{what}");
    }
}
