//! What readers see beside LMDB's file: what is recent, and on top of which of LMDB's transactions.
//!
//! A reader takes a transaction of LMDB and what is recent one after the other, while a checkpoint may
//! move something from here to there. What it takes always fits together, and it waits for nobody.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::{Error, Result};
use crate::store::changelog::LogHead;
use crate::store::journal::overlay::Overlay;
use crate::store::read::snapshot_limit::{SnapshotLimit, WrittenBytes};

/// Tells where the log ends. It outlives the opening of an environment.
pub type ShownLog = Arc<watch::Sender<Option<LogHead>>>;

/// What is shown.
#[derive(Debug)]
pub struct CurrentVersion {
    version: Mutex<Version>,
    written: WrittenBytes,
    log: ShownLog,
}

#[derive(Debug, Clone)]
struct Version {
    /// The transaction of LMDB that it lies on top of.
    base_txn: u64,
    overlay: Overlay,
    /// The next transaction has all of it.
    is_checkpoint_running: bool,
}

impl CurrentVersion {
    /// What is recent on top of a transaction.
    pub fn new(on: u64, recent: Overlay, log: ShownLog) -> Self {
        let recently =
            Mutex::new(Version { base_txn: on, overlay: recent, is_checkpoint_running: false });
        Self { version: recently, written: WrittenBytes::default(), log }
    }

    fn with_version<T>(&self, change: impl FnOnce(&mut Version) -> T) -> T {
        change(&mut self.version.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A snapshot begins, as its transaction is taken next.
    pub fn begin_snapshot(&self) -> SnapshotLimit {
        self.written.begin_snapshot()
    }

    /// What is recent on top of the transaction that `begin` gives, and what else it gives.
    pub fn pin<T>(
        &self,
        mut begin: impl FnMut() -> Result<Option<(u64, T)>>,
    ) -> Result<Option<(T, Overlay)>> {
        // More than one turn takes a checkpoint in between.
        for _ in 0..1000 {
            let shown = self.with_version(|shown| shown.clone());
            let Some((at, begun)) = begin()? else { return Ok(None) };
            if at == shown.base_txn {
                return Ok(Some((begun, shown.overlay)));
            }
            if at == shown.base_txn.saturating_add(1) && shown.is_checkpoint_running {
                return Ok(Some((begun, Overlay::default())));
            }
        }
        Err(Error::Unavailable("another process has written to the store; try again".into()))
    }

    /// What is recent, on top of LMDB's last transaction, which is told.
    pub fn pin_for_write(&self, last: u64) -> Overlay {
        self.with_version(|shown| {
            if shown.base_txn != last {
                log::warn!("another process has written to the store, which only one daemon may");
                shown.base_txn = last;
            }
            shown.overlay.clone()
        })
    }

    /// What is recent now.
    pub fn overlay(&self) -> Overlay {
        self.with_version(|shown| shown.overlay.clone())
    }

    /// Shows what is recent from now on, on top of the same transaction.
    pub fn publish(&self, recent: Overlay) {
        self.with_version(|shown| shown.overlay = recent);
    }

    /// Shows where the log ends, once its entries can be read.
    pub fn show_log(&self, head: Option<LogHead>) {
        self.log.send_if_modified(|shown| std::mem::replace(shown, head) != head);
    }

    /// A checkpoint of `recent` begins, which has all that is shown: the next transaction has it.
    pub fn checkpoint_started(&self, recent: &Overlay) {
        self.written.add(recent);
        self.with_version(|shown| shown.is_checkpoint_running = true);
    }

    /// It has ended: nothing is recent on top of that transaction, or it failed and all is as before.
    pub fn checkpoint_finished(&self, on: Option<u64>) {
        self.with_version(|shown| {
            shown.is_checkpoint_running = false;
            if let Some(on) = on {
                (shown.base_txn, shown.overlay) = (on, Overlay::default());
            }
        });
    }
}
