//! The limit of a snapshot: the bytes that checkpoints may write while it is open.
//!
//! LMDB reuses no page that a snapshot may see, so the file grows by all that checkpoints write while a
//! snapshot is open. A timeout would be no bound: the growth depends on the written bytes only.
//!
//! A long List beside fast writers would meet this limit before its end. So a snapshot that has half of the
//! limit behind it asks for [`CHECKPOINT_PAUSE`]: the writer thread makes no checkpoint for that long, or
//! until the snapshot is dropped. The writes wait meanwhile. A snapshot that takes longer still is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::model::{Error, Result};
use crate::store::journal::overlay::Overlay;

/// The bytes that checkpoints may write while a snapshot is open, before the snapshot must be dropped.
pub(crate) const MAX_WRITTEN: u64 = 24 << 20;

/// The bytes after which a snapshot asks for a pause.
const PAUSE_FROM: u64 = MAX_WRITTEN / 2;

/// How long checkpoints wait for one snapshot. Each write in the queue waits as long.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(500);

/// A page of LMDB's file, and how many of them a changed key costs beside its value: its leaf, and a share
/// of the pages above it, which the keys of a checkpoint have in common.
const PAGE: u64 = 4096;
const PAGES_PER_KEY: u64 = 2;

/// The bytes that all checkpoints of an open environment have written, rounded up. Clones
/// count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct WrittenBytes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    written: AtomicU64,
    pause: Mutex<Pause>,
    pause_ended: Condvar,
}

/// The pause that snapshots have asked for.
#[derive(Debug, Default)]
struct Pause {
    /// The open snapshots that have asked.
    snapshots: usize,
    /// When the pause of the last one ends.
    until: Option<Instant>,
}

impl WrittenBytes {
    /// Adds the bytes of a checkpoint of `overlay`.
    pub(crate) fn add(&self, overlay: &Overlay) {
        let pages = |bytes: usize| (bytes as u64).div_ceil(PAGE);
        let keys = overlay
            .writes()
            .map(|(_, _, value)| PAGES_PER_KEY + value.map_or(0, |v| pages(v.len())));
        self.0.written.fetch_add(keys.sum::<u64>() * PAGE, Ordering::Relaxed);
    }

    /// Waits, before a checkpoint, for the snapshots that asked for a pause.
    pub(crate) fn wait_for_snapshots(&self) {
        let mut pause = self.0.pause.lock();
        while pause.snapshots > 0
            && let Some(until) = pause.until
            && !self.0.pause_ended.wait_until(&mut pause, until).timed_out()
        {}
    }

    /// Starts the limit of a snapshot.
    pub(crate) fn begin_snapshot(&self) -> SnapshotLimit {
        SnapshotLimit {
            written: self.clone(),
            since: self.0.written.load(Ordering::Relaxed),
            paused: AtomicBool::new(false),
        }
    }
}

/// The bytes that checkpoints write while a snapshot is held.
#[derive(Debug)]
pub(crate) struct SnapshotLimit {
    written: WrittenBytes,
    since: u64,
    /// Whether the snapshot has asked for its pause.
    paused: AtomicBool,
}

impl SnapshotLimit {
    /// Returns an error if the snapshot must be closed.
    pub(crate) fn check(&self) -> Result<()> {
        let written = self.written.0.written.load(Ordering::Relaxed).saturating_sub(self.since);
        if written <= PAUSE_FROM {
            return Ok(());
        }
        if written <= MAX_WRITTEN {
            self.pause_checkpoints();
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "the store was changed by more than {} MiB while it was read: try again, or ask for less",
            MAX_WRITTEN >> 20
        )))
    }

    fn pause_checkpoints(&self) {
        if !self.paused.swap(true, Ordering::Relaxed) {
            let mut pause = self.written.0.pause.lock();
            pause.snapshots += 1;
            pause.until = Some(Instant::now() + CHECKPOINT_PAUSE);
        }
    }
}

impl Drop for SnapshotLimit {
    fn drop(&mut self) {
        if *self.paused.get_mut() {
            self.written.0.pause.lock().snapshots -= 1;
            self.written.0.pause_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Namespace;
    use crate::store::{Kind, Records, Store, Transaction};

    fn put(store: &Store, size: usize) {
        let namespace = Namespace::parse("n").unwrap();
        let record = vec![7; size];
        let work =
            move |c: &mut Transaction<'_>| c.put(&namespace, Kind::Lease, "l", &record, None);
        store.writer().write_blocking(work).unwrap();
    }

    #[test]
    fn a_snapshot_is_closed_before_the_file_has_grown_much() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        put(&store, 1 << 20);
        // One snapshot after the other, each held for as long as it may be.
        for _ in 0..4 {
            let given_up = store.read(|snapshot| {
                for _ in 0..100 {
                    snapshot.check_held()?;
                    put(&store, 1 << 20);
                }
                Ok(())
            });
            assert!(matches!(&given_up, Err(Error::Unavailable(_))), "{given_up:?}");
        }
        let size = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
        assert!(size < 64 << 20, "{size} bytes");
    }

    #[test]
    fn a_long_scan_beside_fast_writes_finishes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (paused, pause) = std::sync::mpsc::channel();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (store, end) = (&store, &end);
            scope.spawn(move || {
                pause.recv().unwrap();
                while !end.load(Ordering::Relaxed) {
                    put(store, 1 << 20);
                }
            });
            let read = store.read(|snapshot| {
                for _ in 0..=PAUSE_FROM >> 20 {
                    put(store, 1 << 20);
                }
                snapshot.check_held()?;
                paused.send(()).unwrap();
                // As long as a List of a million images takes.
                let since = Instant::now();
                while since.elapsed() < CHECKPOINT_PAUSE / 2 {
                    snapshot.check_held()?;
                }
                Ok(())
            });
            end.store(true, Ordering::Relaxed);
            read.unwrap();
        });
    }

    #[test]
    fn a_scan_ends_when_its_snapshot_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let namespace = Namespace::parse("n").unwrap();
        put(&store, 1);
        let ended = store.read(|snapshot| {
            let mut walk = snapshot.scan(&namespace, Kind::Lease)?;
            for _ in 0..=MAX_WRITTEN >> 20 {
                put(&store, 1 << 20);
            }
            walk.next().transpose().map(|entry| entry.is_some())
        });
        assert!(matches!(&ended, Err(Error::Unavailable(_))), "{ended:?}");
    }
}
