//! The current version of the store: the id of an LMDB transaction, and the overlay of the writes that
//! no checkpoint has written yet.
//!
//! A reader pins a consistent pair without blocking, even while a checkpoint moves writes from the
//! overlay into LMDB's file.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{Error, Result};
use crate::store::changelog::LogHead;
use crate::store::journal::overlay::Overlay;
use crate::store::read::snapshot_limit::{SnapshotLimit, WrittenBytes};

/// Shows the ends of the log. It outlives the opening of an environment.
pub(crate) type ShownLog = Arc<watch::Sender<Option<LogHead>>>;

/// The ends of the log, `Some(None)` while it is off; `None` if they must be read.
pub(crate) type KnownLog = Option<Option<LogHead>>;

/// The version that new readers see.
#[derive(Debug)]
pub(crate) struct CurrentVersion {
    version: Mutex<Version>,
    written: WrittenBytes,
    log: ShownLog,
}

#[derive(Debug, Clone)]
struct Version {
    /// The id of the LMDB transaction under the overlay.
    base_txn: u64,
    overlay: Overlay,
    /// If set, the next LMDB transaction includes the whole overlay.
    is_checkpoint_running: bool,
}

impl CurrentVersion {
    /// The version with `overlay` on top of the transaction `base_txn`.
    pub(crate) fn new(base_txn: u64, overlay: Overlay, log: ShownLog) -> Self {
        let version = Version { base_txn, overlay, is_checkpoint_running: false };
        Self { version: Mutex::new(version), written: WrittenBytes::default(), log }
    }

    fn with_version<T>(&self, change: impl FnOnce(&mut Version) -> T) -> T {
        change(&mut self.version.lock())
    }

    /// Starts the limit of a snapshot. The caller begins the snapshot's transaction next.
    pub(crate) fn begin_snapshot(&self) -> SnapshotLimit {
        self.written.begin_snapshot()
    }

    /// Pins the snapshot that `begin_snapshot` returns together with the overlay on top of it. Returns
    /// `None` if `begin_snapshot` does.
    ///
    /// # Errors
    /// `Unavailable` if another process has written to the store.
    pub(crate) fn pin<T>(
        &self,
        mut begin_snapshot: impl FnMut() -> Result<Option<(u64, T)>>,
    ) -> Result<Option<(T, Overlay)>> {
        // Each further attempt needs a checkpoint that ended during the attempt before.
        for _ in 0..1000 {
            let version = self.with_version(|version| version.clone());
            let Some((txn, snapshot)) = begin_snapshot()? else { return Ok(None) };
            if txn == version.base_txn {
                return Ok(Some((snapshot, version.overlay)));
            }
            if txn == version.base_txn.saturating_add(1) && version.is_checkpoint_running {
                return Ok(Some((snapshot, Overlay::default())));
            }
        }
        Err(Error::Unavailable("another process has written to the store; try again".into()))
    }

    /// The overlay on top of LMDB's last transaction, whose id is `last`, and the ends of the log in that
    /// state: unknown if another process has made that transaction.
    pub(crate) fn pin_for_write(&self, last: u64) -> (Overlay, KnownLog) {
        let (overlay, is_ours) = self.with_version(|version| {
            let is_ours = version.base_txn == last;
            if !is_ours {
                log::warn!("another process has written to the store, which only one daemon may");
                version.base_txn = last;
            }
            (version.overlay.clone(), is_ours)
        });
        (overlay, is_ours.then(|| *self.log.borrow()))
    }

    /// The current overlay.
    pub(crate) fn overlay(&self) -> Overlay {
        self.with_version(|version| version.overlay.clone())
    }

    /// Publishes a new overlay on top of the same transaction.
    pub(crate) fn publish(&self, overlay: Overlay) {
        self.with_version(|version| version.overlay = overlay);
    }

    /// Shows the ends of the log. Readers can read its entries already.
    pub(crate) fn show_log(&self, head: Option<LogHead>) {
        self.log.send_if_modified(|shown| std::mem::replace(shown, head) != head);
    }

    /// Waits, before a checkpoint, for snapshots that have almost reached their limit.
    pub(crate) fn wait_for_snapshots(&self) {
        self.written.wait_for_snapshots();
    }

    /// Records that a checkpoint of `overlay` has started. `overlay` includes the current overlay.
    pub(crate) fn checkpoint_started(&self, overlay: &Overlay) {
        self.written.add(overlay);
        self.with_version(|version| version.is_checkpoint_running = true);
    }

    /// Records that the checkpoint has ended: with an empty overlay on top of `base_txn`, or, if that is
    /// `None`, without effect.
    pub(crate) fn checkpoint_finished(&self, base_txn: Option<u64>) {
        self.with_version(|version| {
            version.is_checkpoint_running = false;
            if let Some(base_txn) = base_txn {
                (version.base_txn, version.overlay) = (base_txn, Overlay::default());
            }
        });
    }
}
