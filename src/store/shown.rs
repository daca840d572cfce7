//! What readers see beside LMDB's file: what is recent, and on top of which of LMDB's transactions.
//!
//! A reader takes a transaction of LMDB and what is recent one after the other, while a checkpoint may
//! move something from here to there. What it takes always fits together, and it waits for nobody.

use std::sync::{Mutex, PoisonError};

use super::recent::Recent;
use super::snapshot_limit::{SnapshotLimit, WrittenBytes};
use crate::model::{Error, Result};

/// What is shown.
#[derive(Debug)]
pub struct Shown {
    recently: Mutex<Recently>,
    written: WrittenBytes,
}

#[derive(Debug, Clone)]
struct Recently {
    /// The transaction of LMDB that it lies on top of.
    on: u64,
    recent: Recent,
    /// The next transaction has all of it.
    checkpoint: bool,
}

impl Shown {
    /// What is recent on top of a transaction.
    pub fn new(on: u64, recent: Recent) -> Self {
        let recently = Mutex::new(Recently { on, recent, checkpoint: false });
        Self { recently, written: WrittenBytes::default() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Recently) -> T) -> T {
        change(&mut self.recently.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A snapshot begins, as its transaction is taken next.
    pub fn begin_snapshot(&self) -> SnapshotLimit {
        self.written.begin_snapshot()
    }

    /// What is recent on top of the transaction that `begin` gives, and what else it gives.
    pub fn with<T>(
        &self,
        mut begin: impl FnMut() -> Result<Option<(u64, T)>>,
    ) -> Result<Option<(T, Recent)>> {
        // More than one turn takes a checkpoint in between.
        for _ in 0..1000 {
            let shown = self.change(|shown| shown.clone());
            let Some((at, begun)) = begin()? else { return Ok(None) };
            if at == shown.on {
                return Ok(Some((begun, shown.recent)));
            }
            if at == shown.on.saturating_add(1) && shown.checkpoint {
                return Ok(Some((begun, Recent::default())));
            }
        }
        Err(Error::Unavailable("another process has written to the store; try again".into()))
    }

    /// What is recent, on top of LMDB's last transaction, which is told.
    pub fn on(&self, last: u64) -> Recent {
        self.change(|shown| {
            if shown.on != last {
                log::warn!("another process has written to the store, which only one daemon may");
                shown.on = last;
            }
            shown.recent.clone()
        })
    }

    /// What is recent now.
    pub fn recent(&self) -> Recent {
        self.change(|shown| shown.recent.clone())
    }

    /// Shows what is recent from now on, on top of the same transaction.
    pub fn show(&self, recent: Recent) {
        self.change(|shown| shown.recent = recent);
    }

    /// A checkpoint of `recent` begins, which has all that is shown: the next transaction has it.
    pub fn checkpoint_begins(&self, recent: &Recent) {
        self.written.add(recent);
        self.change(|shown| shown.checkpoint = true);
    }

    /// It has ended: nothing is recent on top of that transaction, or it failed and all is as before.
    pub fn checkpoint_ends(&self, on: Option<u64>) {
        self.change(|shown| {
            shown.checkpoint = false;
            if let Some(on) = on {
                (shown.on, shown.recent) = (on, Recent::default());
            }
        });
    }
}
