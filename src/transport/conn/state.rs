//! What is kept of one connection, so that it stays in its bounds: how many calls have begun and run,
//! and since when replies lie unread.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::memory::Reservation;
use crate::service::client::Client;
use crate::transport::conn::admission;
use crate::transport::conn::admission::{Admission, ConnectionAdmission};

/// The client at the other end. Processes in a namespace that the kernel does not show are all 0: they
/// need not be one.
pub fn client(stream: &UnixStream) -> Client {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    match stream.peer_cred().ok().and_then(|peer| peer.pid()) {
        Some(process) if process > 0 => Client::Process(process),
        _ => Client::Connection(CONNECTIONS.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Shared between a connection's task and its calls.
#[derive(Debug)]
pub struct ConnectionState {
    client: Client,
    begun: ConnectionAdmission,
    calls: Arc<Semaphore>,
    /// gRPC: the reader, while no more calls may begin.
    paused: Mutex<Option<Waker>>,
    /// gRPC: replies handed to the protocol and not sent yet, in the order they were handed over.
    unsent: Mutex<BTreeMap<u64, Instant>>,
    /// ttrpc: the streams whose call has begun and not been answered, each with what it holds. An entry
    /// stands for one call: a second one under the same number is refused.
    holds: Mutex<HashMap<u32, Vec<Reservation>>>,
}

impl ConnectionState {
    /// A connection that may run so many calls at a time, and is one of those that `begun` counts.
    pub fn new(calls: usize, begun: &Admission, client: Client) -> Arc<Self> {
        Arc::new(Self {
            client,
            begun: begun.connection(),
            calls: Arc::new(Semaphore::new(calls)),
            paused: Mutex::default(),
            unsent: Mutex::default(),
            holds: Mutex::default(),
        })
    }

    /// Whose connection it is.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The calls it has begun.
    pub fn admission(&self) -> &ConnectionAdmission {
        &self.begun
    }

    /// A call with so many bytes of headers begins, until what is returned is dropped.
    pub fn admit(self: &Arc<Self>, headers: usize) -> CallGuard {
        let weight = 1 + headers / admission::HEADER_BYTES_PER_SLOT;
        self.begun.admit(weight);
        CallGuard { connection: Arc::clone(self), weight }
    }

    /// Whether no further call may begin. Then one is under way, and the task is woken when one ends.
    pub fn poll_admission(&self, cx: &Context<'_>) -> bool {
        if self.begun.can_admit() {
            return false;
        }
        *lock(&self.paused) = Some(cx.waker().clone());
        // It may have ended meanwhile.
        !self.begun.can_admit()
    }

    /// Waits until one more call may run. The slot is the call's until its reply is sent.
    pub async fn acquire_call_slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.calls).acquire_owned().await.ok()
    }

    /// A reply is handed to the protocol. It counts as sent when the value is dropped.
    pub fn track_reply(
        self: &Arc<Self>,
        slot: Option<OwnedSemaphorePermit>,
        hold: Option<Reservation>,
    ) -> ReplyGuard {
        let mut unsent = lock(&self.unsent);
        let number = unsent.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        unsent.insert(number, Instant::now());
        ReplyGuard { connection: Arc::clone(self), number, _slot: slot, _hold: hold }
    }

    /// A reply has been waiting for longer than `time` to be sent.
    pub fn has_stalled_reply(&self, time: Duration) -> bool {
        let unsent = lock(&self.unsent);
        unsent.first_key_value().is_some_and(|(_, since)| since.elapsed() > time)
    }

    /// A ttrpc call begins on that stream; false when the stream has a call that is not answered yet.
    pub fn open(&self, stream: u32) -> bool {
        let mut holds = lock(&self.holds);
        let is_new = !holds.contains_key(&stream);
        if is_new {
            holds.insert(stream, Vec::new());
        }
        is_new
    }

    /// Keeps `hold` until [`Connection::release`] of that stream. A call that was answered already, as
    /// its time was over, keeps nothing.
    pub fn attach(&self, stream: u32, hold: Option<Reservation>) {
        if let (Some(hold), Some(holds)) = (hold, lock(&self.holds).get_mut(&stream)) {
            holds.push(hold);
        }
    }

    /// The request on that stream needs so many bytes only of what it holds; says whether it holds
    /// something.
    pub fn shrink(&self, stream: u32, bytes: usize) -> bool {
        let mut holds = lock(&self.holds);
        let held = holds.get_mut(&stream).and_then(|holds| holds.first_mut());
        held.map(|hold| hold.shrink(bytes)).is_some()
    }

    /// Gives back what the call on that stream holds.
    pub fn detach(&self, stream: u32) {
        lock(&self.holds).remove(&stream);
    }
}

/// A call that has begun and not ended.
#[derive(Debug)]
pub struct CallGuard {
    connection: Arc<ConnectionState>,
    weight: usize,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.connection.begun.release(self.weight);
        if let Some(reader) = lock(&self.connection.paused).take() {
            reader.wake();
        }
    }
}

/// A reply on its way.
#[derive(Debug)]
pub struct ReplyGuard {
    connection: Arc<ConnectionState>,
    number: u64,
    _slot: Option<OwnedSemaphorePermit>,
    _hold: Option<Reservation>,
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        lock(&self.connection.unsent).remove(&self.number);
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
    fn one_reply_that_waits_makes_it_stuck_though_others_are_sent() {
        let connection = ConnectionState::new(1, &Admission::default(), Client::Own);
        assert!(!connection.has_stalled_reply(Duration::ZERO));
        let waits = connection.track_reply(None, None);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(2) {
            drop(connection.track_reply(None, None));
        }
        assert!(connection.has_stalled_reply(Duration::from_millis(2)));
        assert!(!connection.has_stalled_reply(Duration::from_secs(60)));
        drop(waits);
        assert!(!connection.has_stalled_reply(Duration::ZERO));
    }

    #[test]
    fn a_stream_has_one_call_and_what_that_holds_goes_with_it() {
        use crate::limits::memory::MemoryBudget;
        use futures_util::FutureExt;

        let budget = MemoryBudget::new(100_000);
        let connection =
            ConnectionState::new(1, &Admission::default(), crate::service::client::Client::Own);
        let share = || budget.reserve(60_000).now_or_never();
        assert!(connection.open(1) && connection.open(3) && !connection.open(1));
        connection.attach(1, share().unwrap());
        connection.detach(3);
        assert!(share().is_none(), "another stream's end gives nothing back");
        connection.detach(1);
        connection.attach(1, share().unwrap());
        assert!(share().is_some(), "an answered call keeps nothing");
        assert!(connection.open(1), "a stream may be used again");
    }
}
