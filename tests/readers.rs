//! Other processes that read the store while its owner writes: stopped, killed, or too many.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lmdb_images::model::{Error, Namespace, Result};
use lmdb_images::store::{ReadOnlyStore, Records, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// So many snapshots may be held at once, in all processes.
const PLACES: usize = 512;

/// This test program again, holding `snapshots` snapshots of the store until it is let go.
struct Holder(Child);

impl Holder {
    fn start(root: &Path, snapshots: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_holds", "--ignored", "--nocapture"])
            .env("HOLD_ROOT", root)
            .env("HOLD_SNAPSHOTS", snapshots.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("held")), "it does not hold");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "run by the other tests, as another process"]
fn the_process_that_holds() {
    let Some(root) = std::env::var_os("HOLD_ROOT") else { return };
    let reader = ReadOnlyStore::open(Path::new(&root)).unwrap();
    let snapshots = std::env::var("HOLD_SNAPSHOTS").unwrap().parse().unwrap();
    hold(&reader, snapshots).unwrap();
}

fn hold(reader: &ReadOnlyStore, snapshots: usize) -> Result<()> {
    if snapshots > 0 {
        return reader.read(|_| hold(reader, snapshots - 1));
    }
    println!("held");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or whoever started it is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}

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
fn a_stopped_reader_blocks_nobody_and_is_told_of() {
    let (_dir, store) = store();
    write(&store, "before");
    let holder = Holder::start(store.root(), 1);
    holder.signal(Signal::SIGSTOP);
    for i in 0..50 {
        write(&store, &format!("n{i}"));
        assert_eq!(store.read(|s| Ok(s.namespaces()?.len())).unwrap(), i + 2);
    }
    let held = store.readers().unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].process, held[0].alive), (holder.0.id(), true));
    // Its snapshot is that of LMDB's file, into which a checkpoint brings what is written.
    while store.last_commit().unwrap() == held[0].snapshot {
        std::thread::yield_now();
    }
    assert_eq!(store.free_dead_readers().unwrap(), 0);
}

#[test]
fn the_places_of_a_killed_reader_are_taken_back() {
    let (_dir, store) = store();
    let mut holder = Holder::start(store.root(), 3);
    let mut other = Holder::start(store.root(), 1);
    holder.kill();
    let alive = |of: &Holder| {
        let held = store.readers().unwrap();
        held.into_iter().filter(|h| h.process == of.0.id()).map(|h| h.alive).collect::<Vec<_>>()
    };
    assert_eq!((alive(&holder), alive(&other)), (vec![false; 3], vec![true]));
    assert_eq!(store.free_dead_readers().unwrap(), 3);
    assert_eq!((alive(&holder), alive(&other)), (vec![], vec![true]));
    other.kill();
    // A process that only reads takes them back when it comes.
    drop(Holder::start(store.root(), 0));
    assert_eq!(store.readers().unwrap(), []);
}

#[test]
fn when_all_places_are_taken_those_of_the_dead_are_given_to_the_living() {
    let (_dir, store) = store();
    let mut holder = Holder::start(store.root(), PLACES);
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
            // Another process takes back what is dead: not ours.
            drop(Holder::start(store.root(), 1));
            assert_eq!(
                store.readers()?.iter().filter(|h| h.process == std::process::id()).count(),
                1
            );
            Ok(())
        })
        .unwrap();
}
