//! A bound on the memory that large messages take together.
//!
//! Small messages need no reservation: the open calls of a connection bound their number. A large message
//! waits until the budget has as many bytes free, and keeps its reservation until it is sent. Clients
//! take turns, and one client holds at most three quarters of the budget, so a client that does not send
//! or read leaves a part to the others.

use std::time::{Duration, Instant};

use super::client::Client;
use super::fair_semaphore::{FairSemaphore, Permit};

/// Messages up to this many bytes need no reservation.
pub const SMALL: usize = 4 << 10;

/// How long a reservation may stay with a client that does not send its request, or does not read its
/// reply, while other clients wait for the memory.
const CONTENDED_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the owner of a reservation checks whether it is overdue.
pub(crate) const OVERDUE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A budget of bytes. Clones share the same bytes.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: FairSemaphore,
    bytes: u32,
    contended_timeout: Duration,
    waiters: Waiters,
}

/// Whose wait makes a reservation overdue.
#[derive(Clone, Copy, Debug)]
enum Waiters {
    /// Only the wait of another client: a client waits for its own calls.
    OfOtherClients,
    /// Any wait: a client's streams do not wait for each other.
    All,
}

/// Reserved bytes of a [`MemoryBudget`], released when dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: Permit,
    since: Instant,
    contended_timeout: Duration,
    waiters: Waiters,
}

impl Reservation {
    /// The number of reserved bytes.
    pub fn bytes(&self) -> usize {
        self.permit.count()
    }

    /// Releases all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.permit.shrink(bytes);
    }

    /// Starts the timeout anew: from now on the client has to act.
    pub fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Whether the client has held it longer than the timeout while the memory is waited for.
    pub(crate) fn is_overdue(&self) -> bool {
        let is_wanted = || match self.waiters {
            Waiters::OfOtherClients => self.permit.is_wanted(),
            Waiters::All => self.permit.has_waiters(),
        };
        self.since.elapsed() > self.contended_timeout && is_wanted()
    }

    /// Waits until the reservation [is overdue](Self::is_overdue).
    pub(crate) async fn overdue(&self) {
        while !self.is_overdue() {
            tokio::time::sleep(OVERDUE_CHECK_INTERVAL).await;
        }
    }
}

impl MemoryBudget {
    /// A budget of `bytes` bytes.
    pub fn new(bytes: u32) -> Self {
        let count = bytes as usize;
        let free = FairSemaphore::new(count, count / 4 * 3);
        let waiters = Waiters::OfOtherClients;
        Self { free, bytes, contended_timeout: CONTENDED_TIMEOUT, waiters }
    }

    /// The same budget for streams, which stay open: the wait of any stream makes a reservation overdue,
    /// also that of the client that holds it.
    #[must_use]
    pub(crate) fn for_streams(self) -> Self {
        Self { waiters: Waiters::All, ..self }
    }

    /// Returns the budget with another time after which reservations are overdue.
    #[must_use]
    pub fn with_contended_timeout(self, timeout: Duration) -> Self {
        Self { contended_timeout: timeout, ..self }
    }

    /// Waits for a reservation of `size` bytes. A message larger than the budget gets the whole budget. A small
    /// message needs no reservation.
    pub async fn reserve(&self, client: Client, size: usize) -> Option<Reservation> {
        if size <= SMALL {
            return None;
        }
        let bytes = size.min(self.bytes as usize);
        Some(self.reservation(self.free.acquire(client, bytes).await))
    }

    /// A reservation of `size` bytes, if it is free now.
    fn try_reserve(&self, client: Client, size: usize) -> Option<Reservation> {
        self.free.try_acquire(client, size).map(|permit| self.reservation(permit))
    }

    fn reservation(&self, permit: Permit) -> Reservation {
        let Self { contended_timeout, waiters, .. } = *self;
        Reservation { permit, since: Instant::now(), contended_timeout, waiters }
    }
}

/// The buffer of one message. It grows with the message while the budget has bytes left. It never waits,
/// because its user may hold a transaction.
#[derive(Debug)]
pub struct ReplyBuffer<'b> {
    /// The budget for more bytes, and the client that they count for.
    budget: Option<(&'b MemoryBudget, Client)>,
    reservation: Option<Reservation>,
    size: usize,
    limit: usize,
}

impl<'b> ReplyBuffer<'b> {
    /// A buffer that grows up to `limit` bytes.
    pub(crate) fn elastic(budget: &'b MemoryBudget, client: Client, limit: usize) -> Self {
        Self { budget: Some((budget, client)), reservation: None, size: SMALL.min(limit), limit }
    }

    /// A buffer of `size` bytes with the reservation that the caller has made, if one is due.
    pub fn fixed(size: usize, reservation: Option<Reservation>) -> Self {
        Self { budget: None, reservation, size, limit: size }
    }

    /// Whether the buffer has room for a message of `size` bytes. Once it has not, it holds no reservation.
    pub(crate) fn try_grow(&mut self, size: usize) -> bool {
        if size > self.size && !self.grow(size) {
            (self.budget, self.reservation, self.size) = (None, None, 0);
        }
        size <= self.size
    }

    fn grow(&mut self, size: usize) -> bool {
        let Some((budget, client)) = self.budget else { return false };
        if size > self.limit {
            return false;
        }
        let reserved = self.reservation.as_ref().map_or(0, Reservation::bytes);
        // It reserves twice as much, to ask seldom; or just enough if that is not free.
        for wanted in [size.saturating_mul(2).min(self.limit), size] {
            if let Some(more) = budget.try_reserve(client, wanted - reserved) {
                match &mut self.reservation {
                    Some(reservation) => reservation.permit.merge(more.permit),
                    None => self.reservation = Some(more),
                }
                self.size = wanted;
                return true;
            }
        }
        false
    }

    /// The reservation that a finished message of `size` bytes keeps.
    pub fn finish(self, size: usize) -> Option<Reservation> {
        let mut reservation = self.reservation?;
        reservation.shrink(size);
        (size > SMALL).then_some(reservation)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const FIRST: Client = Client::Process(1);
    const SECOND: Client = Client::Process(2);

    #[test]
    fn large_messages_wait_for_each_other_and_small_ones_do_not() {
        let budget = MemoryBudget::new(100_000);
        let mut first = budget.reserve(FIRST, 80_000).now_or_never().unwrap().unwrap();
        assert!(budget.reserve(SECOND, SMALL).now_or_never().unwrap().is_none());
        assert!(budget.reserve(SECOND, 30_000).now_or_never().is_none());
        first.shrink(50_000);
        let second = budget.reserve(SECOND, 30_000).now_or_never().unwrap();
        assert!(budget.reserve(FIRST, 1 << 40).now_or_never().is_none());
        drop((first, second));
        assert_eq!(
            budget.reserve(SECOND, 1 << 40).now_or_never().unwrap().unwrap().bytes(),
            100_000
        );
    }

    #[test]
    fn a_reservation_is_overdue_once_another_client_waits() {
        let budget = MemoryBudget::new(100_000).with_contended_timeout(Duration::ZERO);
        let held = budget.reserve(FIRST, 100_000).now_or_never().unwrap().unwrap();
        let mut own = Box::pin(budget.reserve(FIRST, 5_000));
        assert!((&mut own).now_or_never().is_none());
        assert!(!held.is_overdue(), "its client waits for itself");
        let mut other = Box::pin(budget.reserve(SECOND, 5_000));
        assert!((&mut other).now_or_never().is_none());
        assert!(held.is_overdue());
        drop(other);
        assert!(!held.is_overdue());
        drop(own);
        let patient = budget.clone().with_contended_timeout(Duration::MAX);
        drop(held);
        let held = patient.reserve(SECOND, 90_000).now_or_never().unwrap().unwrap();
        let mut other = Box::pin(patient.reserve(Client::Own, 20_000));
        assert!((&mut other).now_or_never().is_none());
        assert!(!held.is_overdue(), "it is too early");
    }

    #[test]
    fn a_buffer_grows_while_the_budget_has_bytes_left_and_then_holds_nothing() {
        let budget = MemoryBudget::new(250_000);
        let free = || budget.free.free();
        let mut buffer = ReplyBuffer::elastic(&budget, FIRST, 120_000);
        assert!(buffer.try_grow(SMALL));
        assert_eq!(free(), 250_000);
        assert!(buffer.try_grow(50_000));
        assert_eq!(free(), 150_000);
        assert!(buffer.try_grow(110_000));
        assert_eq!(free(), 130_000);
        let mut other = ReplyBuffer::elastic(&budget, SECOND, 150_000);
        assert!(other.try_grow(40_000));
        assert!(!other.try_grow(140_000));
        assert!(!other.try_grow(1));
        assert_eq!(free(), 130_000);
        let reservation = buffer.finish(110_000);
        assert_eq!(free(), 140_000);
        drop(reservation);
        let mut buffer = ReplyBuffer::elastic(&budget, FIRST, 120_000);
        assert!(buffer.try_grow(120_000) && !buffer.try_grow(120_001));
        assert_eq!(free(), 250_000);
        assert!(ReplyBuffer::elastic(&budget, FIRST, 10).finish(10).is_none());
        let mut buffer = ReplyBuffer::fixed(SMALL + 1, None);
        assert!(buffer.try_grow(SMALL + 1) && !buffer.try_grow(SMALL + 2));
    }
}
