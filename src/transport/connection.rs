//! What is kept of one connection, so that it stays in its bounds: how many calls run, and since
//! when replies lie unread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::service::budget::Hold;

/// Shared between a connection's task and its calls.
#[derive(Debug)]
pub struct Connection {
    calls: Arc<Semaphore>,
    /// Replies handed to the protocol and not sent yet.
    unsent: AtomicUsize,
    /// When the last reply was handed over or sent.
    progress: Mutex<Instant>,
    /// ttrpc: what the calls under way hold, by their stream.
    holds: Mutex<HashMap<u32, Vec<Hold>>>,
}

impl Connection {
    /// A connection that may run so many calls at a time.
    pub fn new(calls: usize) -> Arc<Self> {
        Arc::new(Self {
            calls: Arc::new(Semaphore::new(calls)),
            unsent: AtomicUsize::new(0),
            progress: Mutex::new(Instant::now()),
            holds: Mutex::default(),
        })
    }

    /// Waits until one more call may run. The slot is the call's until its reply is sent.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.calls).acquire_owned().await.ok()
    }

    /// A reply is handed to the protocol. It counts as sent when the value is dropped.
    pub fn sending(
        self: &Arc<Self>,
        slot: Option<OwnedSemaphorePermit>,
        hold: Option<Hold>,
    ) -> Sending {
        self.unsent.fetch_add(1, Ordering::Relaxed);
        self.moved();
        Sending { connection: Arc::clone(self), _slot: slot, _hold: hold }
    }

    /// Replies are waiting, and for `time` none was handed over or sent.
    pub fn is_stuck(&self, time: Duration) -> bool {
        self.unsent.load(Ordering::Relaxed) > 0 && lock(&self.progress).elapsed() > time
    }

    /// Keeps `hold` until [`Connection::release`] of that stream.
    pub fn keep(&self, stream: u32, hold: Option<Hold>) {
        if let Some(hold) = hold {
            lock(&self.holds).entry(stream).or_default().push(hold);
        }
    }

    /// Gives back what the call on that stream holds.
    pub fn release(&self, stream: u32) {
        lock(&self.holds).remove(&stream);
    }

    fn moved(&self) {
        *lock(&self.progress) = Instant::now();
    }
}

/// A reply on its way.
#[derive(Debug)]
pub struct Sending {
    connection: Arc<Connection>,
    _slot: Option<OwnedSemaphorePermit>,
    _hold: Option<Hold>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.connection.unsent.fetch_sub(1, Ordering::Relaxed);
        self.connection.moved();
    }
}

/// Nothing that is done under these locks can panic; a poisoned one is as good as new.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_stuck_when_replies_wait_and_nothing_moves() {
        let connection = Connection::new(1);
        assert!(!connection.is_stuck(Duration::ZERO));
        let reply = connection.sending(None, None);
        assert!(connection.is_stuck(Duration::ZERO));
        assert!(!connection.is_stuck(Duration::from_secs(60)));
        drop(reply);
        assert!(!connection.is_stuck(Duration::ZERO));
    }
}
