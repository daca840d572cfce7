//! Other processes that read the store while its owner writes: stopped, killed, or too many.

use lmdb_images::model::{Error, Namespace};
use lmdb_images::store::{Records, Store};
use nix::sys::signal::Signal;

use crate::support::snapshot_holder::SnapshotHolder;

/// Snapshots that all processes together may hold.
const MAX_READERS: usize = 512;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    (dir, store)
}

fn write(store: &Store, name: &str) {
    let namespace = Namespace::parse(name).unwrap();
    store.writer().write_blocking(move |c| c.put_namespace(&namespace, b"")).unwrap();
}

#[test]
fn a_stopped_reader_blocks_no_writer_and_is_reported() {
    let (_dir, store) = store();
    write(&store, "before");
    let holder = SnapshotHolder::start(store.root(), 1);
    holder.signal(Signal::SIGSTOP);
    for i in 0..50 {
        write(&store, &format!("n{i}"));
        assert_eq!(store.read(|s| Ok(s.namespaces()?.len())).unwrap(), i + 2);
    }
    let held = store.readers().unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].process, held[0].alive), (holder.pid(), true));
    // Its snapshot is of LMDB's file. Changes reach that file by a checkpoint.
    while store.last_commit().unwrap() == held[0].snapshot {
        std::thread::yield_now();
    }
    assert_eq!(store.free_dead_readers().unwrap(), 0);
}

#[test]
fn the_slots_of_a_killed_reader_are_freed() {
    let (_dir, store) = store();
    let mut holder = SnapshotHolder::start(store.root(), 3);
    let mut other = SnapshotHolder::start(store.root(), 1);
    holder.kill();
    let alive = |holder: &SnapshotHolder| {
        let held = store.readers().unwrap();
        held.into_iter().filter(|h| h.process == holder.pid()).map(|h| h.alive).collect::<Vec<_>>()
    };
    assert_eq!((alive(&holder), alive(&other)), (vec![false; 3], vec![true]));
    assert_eq!(store.free_dead_readers().unwrap(), 3);
    assert_eq!((alive(&holder), alive(&other)), (vec![], vec![true]));
    other.kill();
    // A process that only reads takes them back when it comes.
    drop(SnapshotHolder::start(store.root(), 0));
    assert_eq!(store.readers().unwrap(), []);
}

#[test]
fn a_full_reader_table_reuses_the_slots_of_dead_processes() {
    let (_dir, store) = store();
    let mut holder = SnapshotHolder::start(store.root(), MAX_READERS);
    let full = store.read(|s| s.namespaces()).unwrap_err();
    assert!(matches!(&full, Error::Unavailable(m) if m.contains("reader")), "{full}");
    write(&store, "writes-go-on");
    holder.kill();
    assert_eq!(store.read(|s| Ok(s.namespaces()?.len())).unwrap(), 1);
}

#[test]
fn looking_at_the_table_leaves_the_owner_alive_to_others() {
    let (_dir, store) = store();
    store
        .read(|_| {
            for _ in 0..3 {
                assert_eq!(store.readers()?.len(), 1);
            }
            // Another process frees the slots of dead processes, but not ours.
            drop(SnapshotHolder::start(store.root(), 1));
            assert_eq!(
                store.readers()?.iter().filter(|h| h.process == std::process::id()).count(),
                1
            );
            Ok(())
        })
        .unwrap();
}
