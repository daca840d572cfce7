//! The accounts of one connection that keep it within its limits: its calls in flight, its running
//! calls, and the age of its unsent replies.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::client::Client;
use crate::limits::memory::Reservation;
use crate::metrics::calls::Calls;
use crate::metrics::clients::Program;
use crate::store::Actor;
use crate::transport::conn::admission;
use crate::transport::conn::admission::{Admission, ConnectionAdmission};

/// The process at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Whose share of the daemon the connection uses.
    pub client: Client,
    /// The process as the log of changes names it.
    pub actor: Actor,
    /// The program as the metrics name it.
    pub program: Program,
}

impl Peer {
    /// The process at the other end of `stream`.
    pub fn of(stream: &UnixStream, metrics: &Calls) -> Self {
        let credentials = stream.peer_cred().ok();
        let pid = credentials.and_then(|peer| peer.pid()).unwrap_or_default();
        // The process may have ended, and then has no name.
        let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(comm.trim_ascii_end()).into_owned();
        let actor = Actor::new(credentials.map(|peer| peer.uid()), pid, &comm);
        Self { client: client(stream), actor, program: metrics.clients.program(&comm) }
    }
}

/// The client at the other end. The kernel reports the pid 0 for every process in a pid namespace
/// that the daemon cannot see, so each connection with that pid counts as a client of its own.
fn client(stream: &UnixStream) -> Client {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    match stream.peer_cred().ok().and_then(|peer| peer.pid()) {
        Some(process) if process > 0 => Client::Process(process),
        _ => Client::Connection(CONNECTIONS.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Shared between a connection's task and its calls.
#[derive(Debug)]
pub struct ConnectionState {
    peer: Peer,
    admission: ConnectionAdmission,
    calls: Arc<Semaphore>,
    /// gRPC: the reader, while admission control pauses it.
    paused: Mutex<Option<Waker>>,
    /// gRPC: the replies that the protocol has not sent yet.
    unsent: Mutex<BTreeMap<u64, UnsentReply>>,
    /// ttrpc: the streams with an unanswered call, each with the memory reserved for the call. A
    /// stream has one call at a time: the server refuses a second one.
    reservations: Mutex<HashMap<u32, Reservations>>,
}

impl ConnectionState {
    /// A connection that may run `calls` calls at a time, and takes part in `admission`.
    pub fn new(calls: usize, admission: &Admission, peer: Peer) -> Arc<Self> {
        Arc::new(Self {
            peer,
            admission: admission.connection(),
            calls: Arc::new(Semaphore::new(calls)),
            paused: Mutex::default(),
            unsent: Mutex::default(),
            reservations: Mutex::default(),
        })
    }

    /// The client at the other end.
    pub fn client(&self) -> Client {
        self.peer.client
    }

    /// The process at the other end, as the log of changes names it.
    pub fn actor(&self) -> Actor {
        self.peer.actor.clone()
    }

    /// The program at the other end, as the metrics name it.
    pub fn program(&self) -> &Program {
        &self.peer.program
    }

    /// The connection's calls in flight.
    pub fn admission(&self) -> &ConnectionAdmission {
        &self.admission
    }

    /// Begins a call with `header_bytes` bytes of headers. The call ends when the guard is dropped.
    pub(crate) fn admit(self: &Arc<Self>, header_bytes: usize) -> CallGuard {
        let weight = 1 + header_bytes / admission::HEADER_BYTES_PER_SLOT;
        self.admission.admit(weight);
        CallGuard { connection: Arc::clone(self), weight }
    }

    /// Whether no further call may begin. If so, a call is in flight, and its end wakes the task of
    /// `cx`.
    pub(crate) fn poll_admission(&self, cx: &Context<'_>) -> bool {
        if self.admission.can_admit() {
            return false;
        }
        *self.paused.lock() = Some(cx.waker().clone());
        // The call may have ended before the waker was stored.
        !self.admission.can_admit()
    }

    /// Waits until one more call may run. The call keeps the slot until its reply is sent.
    pub(crate) async fn acquire_call_slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.calls).acquire_owned().await.ok()
    }

    /// Records that the protocol has a reply to send. The reply counts as sent when the guard is
    /// dropped.
    pub(crate) fn track_reply(
        self: &Arc<Self>,
        slot: Option<OwnedSemaphorePermit>,
        mut reservation: Option<Reservation>,
    ) -> ReplyGuard {
        if let Some(reservation) = &mut reservation {
            reservation.restart();
        }
        let mut unsent = self.unsent.lock();
        let number = unsent.last_key_value().map_or(0, |(last, _)| last.wrapping_add(1));
        unsent.insert(number, UnsentReply { since: Instant::now(), reservation });
        ReplyGuard { connection: Arc::clone(self), number, _slot: slot }
    }

    /// Whether a reply has waited for longer than `time` to be sent, or for too long while other
    /// clients wait for its memory.
    pub(crate) fn has_stalled_reply(&self, time: Duration) -> bool {
        let unsent = self.unsent.lock();
        unsent.first_key_value().is_some_and(|(_, reply)| reply.since.elapsed() > time)
            || unsent.values().filter_map(|r| r.reservation.as_ref()).any(Reservation::is_overdue)
    }

    /// Begins a ttrpc call on `stream`. Returns false when the stream has an unanswered call.
    pub fn open(&self, stream: u32) -> bool {
        let mut reservations = self.reservations.lock();
        let is_new = !reservations.contains_key(&stream);
        if is_new {
            reservations.insert(stream, Reservations::default());
        }
        is_new
    }

    /// Keeps the memory of the request on `stream` until [`detach`](Self::detach). A call that has
    /// been answered already, because its deadline passed, keeps nothing.
    pub(crate) fn attach_request(&self, stream: u32, reservation: Option<Reservation>) {
        if let Some(attached) = self.reservations.lock().get_mut(&stream) {
            attached.request = reservation;
        }
    }

    /// Keeps the memory of the reply on `stream` in the same way.
    pub(crate) fn attach_reply(&self, stream: u32, mut reservation: Option<Reservation>) {
        if let Some(reservation) = &mut reservation {
            reservation.restart();
        }
        if let Some(attached) = self.reservations.lock().get_mut(&stream) {
            attached.reply = reservation;
        }
    }

    /// Shrinks the reservation of the request on `stream` to `bytes`. Returns whether the request
    /// has one.
    pub(crate) fn shrink(&self, stream: u32, bytes: usize) -> bool {
        let mut reservations = self.reservations.lock();
        let request = reservations.get_mut(&stream).and_then(|attached| attached.request.as_mut());
        request.map(|reservation| reservation.shrink(bytes)).is_some()
    }

    /// Whether the memory of the request on `stream`, which has not arrived whole, is
    /// [overdue](Reservation::is_overdue).
    pub(crate) fn is_request_overdue(&self, stream: u32) -> bool {
        let reservations = self.reservations.lock();
        let request = reservations.get(&stream).and_then(|attached| attached.request.as_ref());
        request.is_some_and(Reservation::is_overdue)
    }

    /// Whether the memory of a reply is [overdue](Reservation::is_overdue).
    pub(crate) fn is_reply_overdue(&self) -> bool {
        let reservations = self.reservations.lock();
        let mut replies = reservations.values().filter_map(|attached| attached.reply.as_ref());
        replies.any(Reservation::is_overdue)
    }

    /// Releases the reservations of the call on `stream`.
    pub(crate) fn detach(&self, stream: u32) {
        self.reservations.lock().remove(&stream);
    }
}

/// The memory of an unanswered ttrpc call.
#[derive(Debug, Default)]
struct Reservations {
    request: Option<Reservation>,
    reply: Option<Reservation>,
}

/// A call in flight.
#[derive(Debug)]
pub(crate) struct CallGuard {
    connection: Arc<ConnectionState>,
    weight: usize,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.connection.admission.release(self.weight);
        if let Some(reader) = self.connection.paused.lock().take() {
            reader.wake();
        }
    }
}

/// A reply that the protocol has not sent yet.
#[derive(Debug)]
pub struct ReplyGuard {
    connection: Arc<ConnectionState>,
    number: u64,
    _slot: Option<OwnedSemaphorePermit>,
}

/// A reply that the protocol has not sent yet.
#[derive(Debug)]
struct UnsentReply {
    /// When the protocol got it.
    since: Instant,
    reservation: Option<Reservation>,
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        let reply = self.connection.unsent.lock().remove(&self.number);
        // The end of its reservation, which other clients wait for, needs no lock.
        drop(reply);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::limits::memory::MemoryBudget;

    #[test]
    fn one_unsent_reply_stalls_the_connection_though_others_are_sent() {
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
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
    fn an_unread_reply_stalls_the_connection_once_others_wait_for_its_memory() {
        let budget = MemoryBudget::new(100_000).with_contended_timeout(Duration::ZERO);
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
        let share = |client| budget.reserve(client, 60_000).now_or_never();
        let request = share(Client::Own).unwrap();
        assert!(connection.open(1));
        connection.attach_request(1, request);
        let mut other = Box::pin(budget.reserve(Client::Process(1), 60_000));
        assert!((&mut other).now_or_never().is_none());
        assert!(connection.is_request_overdue(1) && !connection.is_reply_overdue());
        drop(other);
        assert!(!connection.is_request_overdue(1));
        connection.detach(1);

        assert!(connection.open(1));
        connection.attach_reply(1, share(Client::Own).unwrap());
        let mut other = Box::pin(budget.reserve(Client::Process(1), 60_000));
        assert!((&mut other).now_or_never().is_none());
        assert!(connection.is_reply_overdue() && !connection.is_request_overdue(1));
        drop(other);
        connection.detach(1);

        let unread = connection.track_reply(None, share(Client::Own).unwrap());
        let mut other = Box::pin(budget.reserve(Client::Process(1), 60_000));
        assert!((&mut other).now_or_never().is_none());
        assert!(connection.has_stalled_reply(Duration::MAX));
        drop(unread);
        assert!((&mut other).now_or_never().is_some());
        assert!(!connection.has_stalled_reply(Duration::MAX));
    }

    #[test]
    fn a_stream_has_one_call_whose_reservations_end_with_it() {
        let budget = MemoryBudget::new(100_000);
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
        let share = || budget.reserve(Client::Own, 60_000).now_or_never();
        assert!(connection.open(1) && connection.open(3) && !connection.open(1));
        connection.attach_request(1, share().unwrap());
        connection.detach(3);
        assert!(share().is_none(), "another stream's end gives nothing back");
        connection.detach(1);
        connection.attach_request(1, share().unwrap());
        assert!(share().is_some(), "an answered call keeps nothing");
        assert!(connection.open(1), "a stream may be used again");
    }
}
