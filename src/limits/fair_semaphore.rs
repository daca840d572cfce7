//! A semaphore whose permits clients share fairly: clients take turns, and one client has at most a part of
//! the permits.
//!
//! A client waits for at most one turn of each other client, however many waiters that client has queued. A
//! client that has permits gets no more than its part, so the other clients can always get some. A client
//! without permits may take any number at once, even more than the part, when its turn comes.
//!
//! No waiter overtakes the waiter whose turn it is. Otherwise a waiter that needs many permits could wait for
//! ever.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::client::Client;

/// The permits. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct FairSemaphore(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// The most permits of one client, unless it takes more at once while it has none.
    part: usize,
    /// The permits that each client has.
    taken: HashMap<Client, usize>,
    /// The waiters of each client, by number. A client without waiters has no queue here.
    waiting: BTreeMap<Client, BTreeMap<u64, Waiter>>,
    next_number: u64,
    /// The client whose turn was the last.
    last: Client,
}

#[derive(Debug)]
struct Waiter {
    count: usize,
    granted: oneshot::Sender<Permit>,
}

/// Some permits of one client, released when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    semaphore: FairSemaphore,
    client: Client,
    count: usize,
}

impl FairSemaphore {
    /// A semaphore of `permits` permits. A client that has permits gets no more than `part`.
    pub(crate) fn new(permits: usize, part: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: permits,
            part: part.max(1),
            taken: HashMap::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            last: Client::Own,
        })))
    }

    /// Waits for `count` permits. The semaphore must have at least `count` in all.
    pub(crate) async fn acquire(&self, client: Client, count: usize) -> Permit {
        if let Some(permit) = self.try_acquire(client, count) {
            return permit;
        }
        let (granted, permit) = oneshot::channel();
        let number = self.lock().enqueue(client, Waiter { count, granted });
        // This value is dropped with the future, and then removes the waiter from the queue.
        let _place = QueuePlace { semaphore: self, client, number };
        self.hand_out();
        match permit.await {
            Ok(permit) => permit,
            // Not reached: the sender is dropped without a permit only when `_place` is dropped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes `count` permits if they are free and no client has an earlier claim to them.
    pub(crate) fn try_acquire(&self, client: Client, count: usize) -> Option<Permit> {
        let mut state = self.lock();
        if !state.may_take(client, count)
            || count > state.free
            || state.waiting.contains_key(&client)
            || state.next_client().is_some()
        {
            return None;
        }
        state.take(client, count);
        Some(Permit { semaphore: self.clone(), client, count })
    }

    /// Whether a client waits that could take its permits, if enough of them were free. A client that already
    /// has its part does not count: it waits for its own permits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().next_client().is_some()
    }

    /// Whether any client waits for permits, including one that waits for its own.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// The number of free permits.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.lock().free
    }

    /// Gives free permits to waiters.
    fn hand_out(&self) {
        loop {
            // The lock is released before the permit is sent. If the waiter is gone, the permit is dropped
            // here, and its drop takes the lock again.
            let Some((client, Waiter { count, granted })) = self.lock().next() else { return };
            let _ = granted.send(Permit { semaphore: self.clone(), client, count });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Permit {
    /// The number of permits.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Releases all but `count`.
    pub(crate) fn shrink(&mut self, count: usize) {
        let released = self.count.saturating_sub(count);
        self.release(released);
    }

    /// Adds the permits of `other`, which must have the same semaphore and client.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.count += std::mem::take(&mut other.count);
    }

    /// See [`FairSemaphore::is_wanted`].
    pub(crate) fn is_wanted(&self) -> bool {
        self.semaphore.is_wanted()
    }

    /// See [`FairSemaphore::has_waiters`].
    pub(crate) fn has_waiters(&self) -> bool {
        self.semaphore.has_waiters()
    }

    fn release(&mut self, count: usize) {
        if count > 0 {
            self.count -= count;
            self.semaphore.lock().release(self.client, count);
            self.semaphore.hand_out();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release(self.count);
    }
}

/// The place of a waiter in the queue.
struct QueuePlace<'s> {
    semaphore: &'s FairSemaphore,
    client: Client,
    number: u64,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        if self.semaphore.lock().dequeue(self.client, self.number).is_some() {
            // Other waiters may have waited because it was this waiter's turn.
            self.semaphore.hand_out();
        }
    }
}

impl State {
    fn enqueue(&mut self, client: Client, waiter: Waiter) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.entry(client).or_default().insert(number, waiter);
        number
    }

    fn dequeue(&mut self, client: Client, number: u64) -> Option<Waiter> {
        let queue = self.waiting.get_mut(&client)?;
        let waiter = queue.remove(&number);
        if queue.is_empty() {
            self.waiting.remove(&client);
        }
        waiter
    }

    /// Whether the client may take `count` more permits. A client without permits may take any number.
    fn may_take(&self, client: Client, count: usize) -> bool {
        self.taken.get(&client).is_none_or(|taken| taken + count <= self.part)
    }

    fn take(&mut self, client: Client, count: usize) {
        self.free -= count;
        *self.taken.entry(client).or_default() += count;
        self.last = client;
    }

    fn release(&mut self, client: Client, count: usize) {
        self.free += count;
        if let Some(taken) = self.taken.get_mut(&client) {
            *taken -= count;
            if *taken == 0 {
                self.taken.remove(&client);
            }
        }
    }

    /// The client whose turn it is: the next one with a waiter that may take its permits.
    fn next_client(&self) -> Option<Client> {
        let behind = self.waiting.range((Excluded(self.last), Unbounded));
        let mut clients = behind.chain(self.waiting.range(..=self.last));
        let may = |(client, queue): &(&Client, &BTreeMap<u64, Waiter>)| {
            let first = queue.first_key_value();
            first.is_some_and(|(_, waiter)| self.may_take(**client, waiter.count))
        };
        clients.find(may).map(|(client, _)| *client)
    }

    /// Takes the permits of the waiter whose turn it is, if they are free.
    fn next(&mut self) -> Option<(Client, Waiter)> {
        let client = self.next_client()?;
        let (number, waiter) = self.waiting.get(&client)?.first_key_value()?;
        let (number, count) = (*number, waiter.count);
        if count > self.free {
            return None;
        }
        let waiter = self.dequeue(client, number)?;
        self.take(client, count);
        Some((client, waiter))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    const ONE: Client = Client::Process(1);
    const TWO: Client = Client::Process(2);
    const THREE: Client = Client::Process(3);

    fn acquire(
        semaphore: &FairSemaphore,
        client: Client,
        count: usize,
    ) -> Pin<Box<dyn Future<Output = Permit> + '_>> {
        Box::pin(semaphore.acquire(client, count))
    }

    /// The permit, if it is granted by now.
    fn granted(waiter: &mut Pin<Box<dyn Future<Output = Permit> + '_>>) -> Option<Permit> {
        waiter.as_mut().now_or_never()
    }

    #[test]
    fn clients_take_turns_even_if_one_has_many_waiters() {
        let semaphore = FairSemaphore::new(1, 1);
        let first = granted(&mut acquire(&semaphore, ONE, 1));
        let mut queued: Vec<_> = (0..5).map(|_| acquire(&semaphore, ONE, 1)).collect();
        assert!(queued.iter_mut().all(|waiter| granted(waiter).is_none()));
        assert!(!semaphore.is_wanted(), "the client waits for its own");
        let mut other = acquire(&semaphore, TWO, 1);
        assert!(granted(&mut other).is_none());
        assert!(semaphore.is_wanted());
        drop(first);
        assert!(granted(&mut other).is_some(), "it waits for one turn only");
    }

    #[test]
    fn one_client_leaves_some_permits_to_the_others() {
        let semaphore = FairSemaphore::new(10, 5);
        let permit = semaphore.try_acquire(ONE, 4).unwrap();
        assert!(semaphore.try_acquire(ONE, 2).is_none());
        let mut more = acquire(&semaphore, ONE, 2);
        assert!(granted(&mut more).is_none());
        assert!(semaphore.try_acquire(ONE, 1).is_none(), "it does not overtake itself");
        let other = semaphore.try_acquire(TWO, 5).unwrap();
        drop(permit);
        assert_eq!(granted(&mut more).unwrap().count(), 2);
        drop(other);
        assert_eq!(semaphore.free(), 10);
    }

    #[test]
    fn a_client_without_permits_may_take_all_of_them_and_is_not_overtaken() {
        let semaphore = FairSemaphore::new(10, 5);
        let permit = semaphore.try_acquire(ONE, 1).unwrap();
        let mut large = acquire(&semaphore, TWO, 10);
        assert!(granted(&mut large).is_none());
        assert!(semaphore.try_acquire(THREE, 1).is_none());
        let mut small = acquire(&semaphore, THREE, 1);
        assert!(granted(&mut small).is_none());
        drop(permit);
        let large = granted(&mut large).unwrap();
        assert!(granted(&mut small).is_none());
        drop(large);
        assert!(granted(&mut small).is_some());
    }

    #[test]
    fn a_waiter_that_is_gone_delays_no_other_and_leaves_no_entry() {
        let semaphore = FairSemaphore::new(10, 5);
        let permit = semaphore.try_acquire(ONE, 1).unwrap();
        let mut gone = acquire(&semaphore, TWO, 10);
        let mut other = acquire(&semaphore, THREE, 1);
        assert!(granted(&mut gone).is_none() && granted(&mut other).is_none());
        drop(gone);
        assert!(granted(&mut other).is_some());
        let mut granted_unseen = acquire(&semaphore, TWO, 10);
        assert!(granted(&mut granted_unseen).is_none());
        drop(permit);
        drop(granted_unseen);
        assert_eq!(semaphore.free(), 10);
        assert!(semaphore.lock().waiting.is_empty() && semaphore.lock().taken.is_empty());
    }

    #[test]
    fn a_permit_can_be_split_and_merged() {
        let semaphore = FairSemaphore::new(10, 10);
        let mut permit = semaphore.try_acquire(ONE, 4).unwrap();
        permit.merge(semaphore.try_acquire(ONE, 3).unwrap());
        assert_eq!((permit.count(), semaphore.free()), (7, 3));
        permit.shrink(5);
        permit.shrink(6);
        assert_eq!((permit.count(), semaphore.free()), (5, 5));
    }
}
