//! One lock for each record. A task has the lock from before its call to containerd until LMDB has stored the
//! answer. So LMDB stores the answers in containerd's order.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::model::Namespace;

/// The number of locks for all records. Two records may share a lock, which cannot deadlock: no task takes a
/// second lock.
const LOCK_COUNT: usize = 1024;

/// The locks of all records.
#[derive(Debug)]
pub(crate) struct RecordLocks {
    locks: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for RecordLocks {
    fn default() -> Self {
        Self {
            locks: (0..LOCK_COUNT).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl RecordLocks {
    /// Waits for the lock of a record.
    pub(crate) async fn lock(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Option<OwnedMutexGuard<()>> {
        let number = self.hasher.hash_one((namespace, name)) as usize % LOCK_COUNT;
        Some(Arc::clone(self.locks.get(number)?).lock_owned().await)
    }
}
