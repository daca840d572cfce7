//! The log against a model: random jobs, some refused, over checkpoints, restarts and crashes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use protobuf::Message;

use super::*;
use crate::api::catalog::{Change, Kind as ChangeKind, State};
use crate::api::images::Image;
use crate::model::{Error, Namespace, Result};
use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, STORE_ID_FILE};
use crate::store::{Actor, Cause, Kind, Origin, Records, Retention, Snapshot, Store, Transaction};

/// Images by namespace and name, as their records.
type Images = BTreeMap<(String, String), Vec<u8>>;

fn namespace(number: usize) -> Namespace {
    Namespace::parse(["n", "m"][number % 2]).unwrap()
}

fn name(number: usize) -> String {
    ["a".to_owned(), "b".into(), "x".repeat(600)][number % 3].clone()
}

fn image(name: &str, content: u32, bytes: usize) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    image.labels.insert("l".into(), "v".repeat(bytes));
    image.target.mut_or_insert_default().digest = format!("sha256:{content}");
    image.write_to_bytes().unwrap()
}

fn list(snapshot: &Snapshot<'_>) -> Result<Images> {
    let mut images = Images::new();
    for number in 0..2 {
        for entry in snapshot.scan(&namespace(number), Kind::Image)? {
            let message = entry?.message()?.to_vec();
            let name = Image::parse_from_bytes(&message).unwrap().name;
            images.insert((namespace(number).to_string(), name), message);
        }
    }
    Ok(images)
}

fn changes(snapshot: &Snapshot<'_>, head: &LogHead) -> Result<Vec<Change>> {
    let (mut changes, mut chain) = (Vec::new(), None);
    snapshot.for_each_entry(0, &mut |seq, entry| {
        assert_eq!(seq, head.first + changes.len() as u64, "a hole");
        assert!(chain.is_none_or(|chain| entry::follows(entry, chain)), "the chain at {seq}");
        let change = entry::decode(entry).unwrap();
        assert_eq!((change.seq, change.chain), (seq, entry::place(entry).unwrap().chain));
        chain = Some(change.chain);
        changes.push(change);
        Ok(true)
    })?;
    assert_eq!(head.last + 1, head.first + changes.len() as u64);
    assert_eq!(chain.unwrap_or(head.chain), head.chain);
    Ok(changes)
}

/// The record of the image of that name in a state.
fn record(name: &str, state: &State) -> Vec<u8> {
    let mut image = Image::parse_from_bytes(&state.write_to_bytes().unwrap()).unwrap();
    image.name = name.into();
    image.write_to_bytes().unwrap()
}

fn apply(images: &mut Images, change: &Change) {
    let key = (change.namespace.clone(), change.name.clone());
    let before = images.get(&key).cloned();
    assert_eq!(
        change.before.as_ref().map(|state| record(&change.name, state)),
        before,
        "what {change} replaces"
    );
    match change.after.as_ref() {
        Some(after) => drop(images.insert(key, record(&change.name, after))),
        None => drop(images.remove(&key)),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, u32, usize),
    Delete(usize),
    SetAside(usize),
    Lease(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Well,
    Refused,
    Panic,
}

#[derive(Debug, Clone)]
enum Step {
    Job(Vec<Op>, End, Origin),
    Checkpoint,
    Restart,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6usize, any::<u32>(), 0..2000usize).prop_map(|(at, c, b)| Op::Put(at, c, b)),
        1 => (0..6usize, any::<u32>()).prop_map(|(at, c)| Op::Put(at, c, 20_000)),
        2 => (0..6usize).prop_map(Op::Delete),
        1 => (0..6usize).prop_map(Op::SetAside),
        1 => (0..6usize).prop_map(Op::Lease),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![5 => Just(End::Well), 1 => Just(End::Refused), 1 => Just(End::Panic)];
    let origin = prop::sample::select(vec![Origin::ORIGIN_CLIENT, Origin::ORIGIN_BATCH]);
    prop_oneof![
        10 => (prop::collection::vec(op(), 0..5), end, origin).prop_map(|(o, e, g)| Step::Job(o, e, g)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

fn work(change: &mut Transaction<'_>, ops: &[Op]) -> Result<()> {
    for op in ops {
        match op {
            Op::Put(at, content, bytes) => {
                let message = image(&name(*at), *content, *bytes);
                change.put(&namespace(at / 3), Kind::Image, &name(*at), &message, None)?;
            }
            Op::Delete(at) => {
                drop(change.delete(&namespace(at / 3), Kind::Image, &name(*at)));
            }
            Op::SetAside(at) => {
                drop(change.set_aside(&namespace(at / 3), Kind::Image, &name(*at)));
            }
            Op::Lease(at) => {
                change.put(&namespace(at / 3), Kind::Lease, &name(*at), b"", Some("soon"))?;
            }
        }
    }
    Ok(())
}

/// The changes that a job makes, and the images then.
fn expected(images: &mut Images, ops: &[Op]) -> u64 {
    let mut count = 0;
    for op in ops {
        let key = |at: usize| (namespace(at / 3).to_string(), name(at));
        match op {
            Op::Put(at, content, bytes) => {
                images.insert(key(*at), image(&name(*at), *content, *bytes));
                count += 1;
            }
            Op::Delete(at) | Op::SetAside(at) => {
                count += u64::from(images.remove(&key(*at)).is_some());
            }
            Op::Lease(_) => {}
        }
    }
    count
}

/// What is on the disk now, as a store of its own.
fn crashed(root: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [DATA_FILE, JOURNAL_FILE, STORE_ID_FILE] {
        fs::copy(root.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_log_over_the_first_state_is_the_list_whatever_happens(
        steps in prop::collection::vec(step(), 0..40),
        keep in prop::sample::select(vec![u64::MAX, 40 << 10]),
    ) {
        let keep = Some(Retention { bytes: keep, age: None });
        let mut dir = tempfile::tempdir().unwrap();
        let mut store = Store::open_and_keep(dir.path(), keep).unwrap();
        let epoch = store.log_head().unwrap().epoch;
        // After each entry.
        let mut states = vec![Images::new()];
        for step in steps {
            match step {
                Step::Job(ops, end, origin) => {
                    let asked = ops.clone();
                    let job = move |change: &mut Transaction<'_>| {
                        change.set_cause(Cause::own(origin));
                        work(change, &asked)?;
                        match end {
                            End::Well => Ok(()),
                            End::Refused => Err(Error::not_found("on purpose")),
                            End::Panic => panic!("on purpose"),
                        }
                    };
                    let made = store.writer().write_blocking(job);
                    prop_assert_eq!(made.is_ok(), end == End::Well);
                    if made.is_ok() {
                        for op in &ops {
                            let mut images = states.last().unwrap().clone();
                            if expected(&mut images, std::slice::from_ref(op)) > 0 {
                                states.push(images);
                            }
                        }
                    }
                }
                Step::Checkpoint => store.checkpoint().unwrap(),
                Step::Restart => {
                    drop(store);
                    store = Store::open_and_keep(dir.path(), keep).unwrap();
                }
                Step::Crash => {
                    let next = crashed(dir.path());
                    drop(std::mem::replace(&mut store, Store::open_and_keep(next.path(), keep).unwrap()));
                    dir = next;
                }
            }
            let shown = store.log_head().unwrap();
            prop_assert_eq!((shown.epoch, shown.last + 1), (epoch, states.len() as u64));
            store.read(|snapshot| {
                let head = snapshot.log_head()?.unwrap();
                assert_eq!((head, head.first <= head.last.max(1)), (shown, true));
                let mut images = states[head.first as usize - 1].clone();
                for change in changes(snapshot, &head)? {
                    apply(&mut images, &change);
                }
                assert_eq!(images, list(snapshot)?);
                Ok(())
            }).unwrap();
        }
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn put(store: &Store, at: usize, bytes: usize) {
    let job = move |change: &mut Transaction<'_>| work(change, &[Op::Put(at, 7, bytes)]);
    store.writer().write_blocking(job).unwrap();
}

fn logged(store: &Store) -> Vec<Change> {
    store.read(|snapshot| changes(snapshot, &snapshot.log_head()?.unwrap())).unwrap()
}

#[test]
fn an_entry_says_who_changed_what_and_why() {
    let (_dir, store) = store();
    let job = |cause: Cause, ops: Vec<Op>| {
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            work(change, &ops)
        };
        store.writer().write_blocking(work).unwrap();
    };
    job(Cause::client(Actor::new(Some(1000), 42, "ctr")), vec![Op::Put(0, 1, 3)]);
    job(Cause { undoes: 1, ..Cause::own(Origin::ORIGIN_UNDO) }, vec![Op::Delete(0)]);
    job(
        Cause::own(Origin::ORIGIN_BATCH),
        vec![Op::Put(0, 1, 3), Op::Put(0, 2, 3), Op::Put(1, 1, 3)],
    );
    job(Cause::own(Origin::ORIGIN_RESYNC), vec![Op::SetAside(0), Op::SetAside(0), Op::Lease(0)]);
    let all = logged(&store);
    let kinds: Vec<_> = all.iter().map(|change| change.kind.unwrap()).collect();
    let (created, updated, deleted) =
        (ChangeKind::KIND_CREATED, ChangeKind::KIND_UPDATED, ChangeKind::KIND_DELETED);
    assert_eq!(kinds, [created, deleted, created, updated, created, deleted]);
    let commits: Vec<_> = all.iter().map(|change| change.commit_last).collect();
    assert_eq!(commits, [1, 2, 5, 5, 5, 6]);
    let [first, undo, ..] = all.as_slice() else { panic!() };
    let actor = first.actor.as_ref().unwrap();
    assert_eq!((actor.uid, actor.pid, actor.comm.as_str()), (Some(1000), 42, "ctr"));
    assert_eq!(
        (first.origin.unwrap(), first.undoes, first.truncated),
        (Origin::ORIGIN_CLIENT, 0, false)
    );
    assert_eq!((first.namespace.as_str(), first.name.as_str()), ("n", "a"));
    assert!(first.before.is_none() && undo.after.is_none());
    assert_eq!(record("a", &undo.before), image("a", 1, 3));
    assert_eq!((undo.origin.unwrap(), undo.undoes), (Origin::ORIGIN_UNDO, 1));
    assert!(undo.actor.is_none());
    assert_eq!(all[5].origin.unwrap(), Origin::ORIGIN_RESYNC);
}

#[test]
fn of_large_states_only_the_digests_are_logged() {
    let (_dir, store) = store();
    put(&store, 0, entry::MAX_STATE_BYTES - 200);
    put(&store, 0, 1000);
    let all = logged(&store);
    assert!(!all[0].truncated && all[1].truncated);
    assert_eq!(record("a", &all[0].after).len(), image("a", 7, entry::MAX_STATE_BYTES - 200).len());
    for state in [&all[1].before, &all[1].after] {
        assert_eq!((state.target.digest.as_str(), state.labels.len()), ("sha256:7", 0));
    }
}

#[test]
fn a_record_that_is_no_image_leaves_an_entry_that_can_be_decoded() {
    let (_dir, store) = store();
    let strange = |change: &mut Transaction<'_>| {
        // No message, and one whose name is no text.
        change.put(&namespace(0), Kind::Image, "a", b"\xff", None)?;
        change.put(&namespace(0), Kind::Image, "a", b"\x0a\x01\xff", None)?;
        work(change, &[Op::Put(0, 7, 5)])
    };
    store.writer().write_blocking(strange).unwrap();
    let all = logged(&store);
    assert_eq!(all.iter().map(|change| change.truncated).collect::<Vec<_>>(), [true; 3]);
    assert_eq!(all[2].after.target.digest, "sha256:7");
}

#[test]
fn a_damaged_record_is_logged_as_one_of_which_nothing_is_known() {
    let (_dir, store) = store();
    let rotten = |change: &mut Transaction<'_>| {
        let key = crate::store::schema::keys::key(&namespace(0), Kind::Image, "a");
        change.set(crate::store::schema::table::Table::Records, &key, b"rotten")
    };
    store.writer().write_blocking(rotten).unwrap();
    put(&store, 0, 1);
    let all = logged(&store);
    assert!(all[0].truncated && all[0].before.is_some());
    assert_eq!(all[0].kind.unwrap(), ChangeKind::KIND_UPDATED);
}

#[test]
fn old_entries_go_the_newest_never_and_the_file_does_not_grow() {
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
fn entries_of_an_age_go_and_a_reader_is_told_where_the_log_begins() {
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
            let sealed = crate::store::schema::value::seal(&key, &old);
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

#[test]
fn what_became_visible_at_once_is_read_at_once() {
    let (_dir, store) = store();
    put(&store, 0, 10);
    let batch = |change: &mut Transaction<'_>| {
        change.set_cause(Cause::own(Origin::ORIGIN_BATCH));
        work(change, &[Op::Put(0, 1, 900), Op::Put(1, 1, 900), Op::Put(2, 1, 900)])
    };
    store.writer().write_blocking(batch).unwrap();
    put(&store, 0, 10);
    for checkpointed in [false, true] {
        let seqs = |from, most| -> Vec<u64> {
            store.read_log(from, most).unwrap().entries.iter().map(|entry| entry.seq).collect()
        };
        assert_eq!(seqs(1, 0), [1], "{checkpointed}");
        assert_eq!(seqs(2, 0), [2, 3, 4]);
        assert_eq!(seqs(1, 1200), [1, 2, 3, 4]);
        assert_eq!(seqs(1, usize::MAX), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(6, usize::MAX), [0; 0]);
        store.checkpoint().unwrap();
    }
}

#[test]
fn turned_off_the_log_is_gone_and_turned_on_it_begins_in_another_epoch() {
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
    // A command does as the daemon was told.
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

#[test]
fn whoever_is_woken_can_read_what_is_shown() {
    let (_dir, store) = store();
    let mut watched = store.watch_log();
    let reader = std::thread::spawn({
        let store = store.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut next = 1;
            while next <= 300 {
                runtime.block_on(watched.changed()).unwrap();
                let shown = watched.borrow_and_update().unwrap();
                let page = store.read_log(next, usize::MAX).unwrap();
                assert!(page.head.unwrap().last >= shown.last);
                assert!(page.entries.last().map_or(next - 1, |entry| entry.seq) >= shown.last);
                next += page.entries.len() as u64;
            }
        }
    });
    for number in 0..300 {
        put(&store, number, 100);
    }
    reader.join().unwrap();
}

/// Puts something under a key of the log past the log.
fn overwrite(store: &Store, key: &[u8], value: Vec<u8>) {
    let key = key.to_vec();
    let put = move |change: &mut Transaction<'_>| {
        change.set(crate::store::schema::table::Table::Log, &key, &value)
    };
    store.writer().write_blocking(put).unwrap();
}

fn damage(store: &Store) -> Vec<String> {
    store.read(|snapshot| snapshot.audit_log(&mut || ())).unwrap().damage
}

#[test]
fn each_flipped_bit_of_an_entry_is_found() {
    let (_dir, store) = store();
    (0..3).for_each(|at| put(&store, at, 20));
    let key = 2_u64.to_be_bytes();
    let value = store
        .read(|s| Ok(s.view.get(crate::store::schema::table::Table::Log, &key)?.unwrap().to_vec()))
        .unwrap();
    assert_eq!(damage(&store), [""; 0]);
    for bit in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        overwrite(&store, &key, flipped);
        let found = damage(&store);
        assert!(
            found[0].contains("entry 2 of the log: the checksum is wrong"),
            "bit {bit}: {found:?}"
        );
    }
    overwrite(&store, &key, value.clone());
    assert_eq!(damage(&store), [""; 0]);
    // Its own checksum is right, but it is another's.
    let other = 9_u64.to_be_bytes();
    overwrite(&store, &other, value);
    assert!(damage(&store)[0].contains("entry 9 of the log comes where 4 is expected"));
}

#[test]
fn an_entry_that_was_exchanged_and_a_record_that_was_put_past_the_log_are_found() {
    let (_dir, store) = store();
    (0..3).for_each(|_| put(&store, 0, 20));
    let entry = store.read_log(2, 1).unwrap().entries.remove(0).bytes;
    let key = 2_u64.to_be_bytes();
    let sealed = |entry: &[u8]| crate::store::schema::value::seal(&key, entry);
    let mut forged = entry.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    overwrite(&store, &key, sealed(&forged));
    assert_eq!(
        damage(&store),
        [2, 3].map(|seq| format!("entry {seq} of the log does not follow the one before"))
    );
    overwrite(&store, &key, sealed(&entry));
    let past = |change: &mut Transaction<'_>| {
        change.skip_log();
        work(change, &[Op::Put(0, 8, 20)])
    };
    store.writer().write_blocking(past).unwrap();
    let found = damage(&store);
    assert!(found[0].contains("entry 3 of the log is the last of image \"a\""), "{found:?}");
    put(&store, 0, 20);
    let found = damage(&store);
    assert!(found[0].contains("entry 4 of the log replaces another state"), "{found:?}");
}
