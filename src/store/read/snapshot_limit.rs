//! The limit of a snapshot: the bytes that checkpoints may write while it is open.
//!
//! LMDB reuses no page that a snapshot may see, so the file grows by all that checkpoints write while a
//! snapshot is open. A timeout would be no bound: the growth depends on the written bytes only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Error, Result};
use crate::store::journal::overlay::Overlay;

/// The bytes that checkpoints may write while a snapshot is open, before the snapshot must be dropped.
pub const MAX_WRITTEN: u64 = 24 << 20;

/// A page of LMDB's file, and how many of them a changed key costs beside its value: its leaf, and a share
/// of the pages above it, which the keys of a checkpoint have in common.
const PAGE: u64 = 4096;
const PAGES_PER_KEY: u64 = 2;

/// What all checkpoints of an open environment have written, in bytes, about and rather too much. Clones
/// count the same.
#[derive(Clone, Debug, Default)]
pub struct WrittenBytes(Arc<AtomicU64>);

impl WrittenBytes {
    /// Adds the bytes of a checkpoint of `overlay`.
    pub fn add(&self, overlay: &Overlay) {
        let pages = |bytes: usize| (bytes as u64).div_ceil(PAGE);
        let keys = overlay
            .writes()
            .map(|(_, _, value)| PAGES_PER_KEY + value.map_or(0, |v| pages(v.len())));
        self.0.fetch_add(keys.sum::<u64>() * PAGE, Ordering::Relaxed);
    }

    /// Starts the limit of a snapshot.
    pub fn begin_snapshot(&self) -> SnapshotLimit {
        SnapshotLimit { written: self.clone(), since: self.0.load(Ordering::Relaxed) }
    }
}

/// How much is written while a snapshot is held.
#[derive(Debug)]
pub struct SnapshotLimit {
    written: WrittenBytes,
    since: u64,
}

impl SnapshotLimit {
    /// An error once the snapshot is to be given up.
    pub fn check(&self) -> Result<()> {
        let written = self.written.0.load(Ordering::Relaxed).saturating_sub(self.since);
        if written <= MAX_WRITTEN {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "the store was changed by more than {} MiB while it was read: try again, or ask for less",
            MAX_WRITTEN >> 20
        )))
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
    fn a_snapshot_is_given_up_before_the_file_has_grown_much() {
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
    fn a_walk_ends_when_its_snapshot_is_given_up() {
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
