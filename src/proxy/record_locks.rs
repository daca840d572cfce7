//! One lock a record: whoever asks containerd of a record and stores the answer holds it, so that
//! answers are stored in the order they were given.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::model::Namespace;

/// So many locks for all records. Two records may share one: then they wait for each other, which
/// does no harm, as nobody holds two.
const MAX_IDLE_LOCKS: usize = 1024;

/// The locks.
#[derive(Debug)]
pub struct RecordLocks {
    locks: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for RecordLocks {
    fn default() -> Self {
        Self {
            locks: (0..MAX_IDLE_LOCKS).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl RecordLocks {
    /// Waits for the lock of a record.
    pub async fn lock(&self, namespace: &Namespace, name: &str) -> Option<OwnedMutexGuard<()>> {
        let number = self.hasher.hash_one((namespace, name)) as usize % MAX_IDLE_LOCKS;
        Some(Arc::clone(self.locks.get(number)?).lock_owned().await)
    }
}
