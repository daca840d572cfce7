//! What is kept of one connection, so that it stays in its bounds: how many calls have begun and run,
//! and since when replies lie unread.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::begun::{self, Begun, Calls};
use crate::service::budget::Hold;
use crate::service::client::Client;

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
pub struct Connection {
    client: Client,
    begun: Calls,
    calls: Arc<Semaphore>,
    /// gRPC: the reader, while no more calls may begin.
    paused: Mutex<Option<Waker>>,
    /// gRPC: replies handed to the protocol and not sent yet, in the order they were handed over.
    unsent: Mutex<BTreeMap<u64, Instant>>,
    /// ttrpc: the streams whose call has begun and not been answered, each with what it holds. An entry
    /// stands for one call: a second one under the same number is refused.
    holds: Mutex<HashMap<u32, Vec<Hold>>>,
}

impl Connection {
    /// A connection that may run so many calls at a time, and is one of those that `begun` counts.
    pub fn new(calls: usize, begun: &Begun, client: Client) -> Arc<Self> {
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
    pub fn begun(&self) -> &Calls {
        &self.begun
    }

    /// A call with so many bytes of headers begins, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>, headers: usize) -> Place {
        let weight = 1 + headers / begun::HEADERS;
        self.begun.begin(weight);
        Place { connection: Arc::clone(self), weight }
    }

    /// Whether no further call may begin. Then one is under way, and the task is woken when one ends.
    pub fn is_paused(&self, cx: &Context<'_>) -> bool {
        if self.begun.may_begin() {
            return false;
        }
        *lock(&self.paused) = Some(cx.waker().clone());
        // It may have ended meanwhile.
        !self.begun.may_begin()
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
        let mut unsent = lock(&self.unsent);
        let number = unsent.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        unsent.insert(number, Instant::now());
        Sending { connection: Arc::clone(self), number, _slot: slot, _hold: hold }
    }

    /// A reply has been waiting for longer than `time` to be sent.
    pub fn is_stuck(&self, time: Duration) -> bool {
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
    pub fn keep(&self, stream: u32, hold: Option<Hold>) {
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
    pub fn release(&self, stream: u32) {
        lock(&self.holds).remove(&stream);
    }
}

/// A call that has begun and not ended.
#[derive(Debug)]
pub struct Place {
    connection: Arc<Connection>,
    weight: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.begun.end(self.weight);
        if let Some(reader) = lock(&self.connection.paused).take() {
            reader.wake();
        }
    }
}

/// A reply on its way.
#[derive(Debug)]
pub struct Sending {
    connection: Arc<Connection>,
    number: u64,
    _slot: Option<OwnedSemaphorePermit>,
    _hold: Option<Hold>,
}

impl Drop for Sending {
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
        let connection = Connection::new(1, &Begun::default(), Client::Own);
        assert!(!connection.is_stuck(Duration::ZERO));
        let waits = connection.sending(None, None);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(2) {
            drop(connection.sending(None, None));
        }
        assert!(connection.is_stuck(Duration::from_millis(2)));
        assert!(!connection.is_stuck(Duration::from_secs(60)));
        drop(waits);
        assert!(!connection.is_stuck(Duration::ZERO));
    }

    #[test]
    fn a_stream_has_one_call_and_what_that_holds_goes_with_it() {
        use crate::service::budget::Budget;
        use futures_util::FutureExt;

        let budget = Budget::new(100_000);
        let connection = Connection::new(1, &Begun::default(), crate::service::client::Client::Own);
        let share = || budget.share(60_000).now_or_never();
        assert!(connection.open(1) && connection.open(3) && !connection.open(1));
        connection.keep(1, share().unwrap());
        connection.release(3);
        assert!(share().is_none(), "another stream's end gives nothing back");
        connection.release(1);
        connection.keep(1, share().unwrap());
        assert!(share().is_some(), "an answered call keeps nothing");
        assert!(connection.open(1), "a stream may be used again");
    }
}
