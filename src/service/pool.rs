//! The threads on which requests that may take long run, and the order in which they get one.
//!
//! Work first gets a place among the quick, for a short time. Work that needs more is ended and starts
//! again among the slow, which have places of their own: however many slow requests there are, a quick
//! one waits for quick ones only. In both lines clients take turns, so that a client waits for one turn
//! of each other client at most, not for all that another has queued. Of the places for slow work one
//! client has half at most.
//!
//! Work that waits holds nothing: no snapshot, no thread, no compiled filter.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::client::Client;
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;

/// How long work may take in a quick place. A List through 100,000 images takes some 20 ms
/// (`scripts/bench beside`). The filters of a subscription may take as long for one event.
pub const QUICK_TIMEOUT: Duration = Duration::from_millis(100);

/// How long work may take in a slow place. Only filters that are made to be slow, or many millions of
/// images, take so long.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// Where work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// Among the quick.
    Quick,
    /// Among the slow.
    Slow,
}

/// The places for work. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    quick: Lane,
    slow: Lane,
}

impl Pool {
    /// As many places for quick work as processors, and half as many, but two at least, for slow work.
    pub fn new() -> Self {
        // More than the processors at once would only wait for each other, and hold snapshots.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let slow = (processors / 2).max(2);
        Self { quick: Lane::new(processors, processors), slow: Lane::new(slow, slow / 2) }
    }

    /// Runs `work`, which must do as its `Patience` says; where it takes too long for a quick place,
    /// anew in a slow one. Dropped, it ends.
    pub async fn run<T: Send + 'static>(
        &self,
        client: Client,
        work: impl Fn(Cancel) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let work = Arc::new(work);
        let quick = Arc::clone(&work);
        match self.run_at(Speed::Quick, client, move |patience| quick(patience)).await? {
            Some(done) => Ok(done),
            None => {
                let slow = self.run_at(Speed::Slow, client, move |patience| work(patience)).await?;
                slow.ok_or_else(|| Error::Internal("slow work was ended as quick work is".into()))
            }
        }
    }

    /// The same, only once: nothing when it takes too long for a quick place.
    pub async fn run_at<T: Send + 'static>(
        &self,
        speed: Speed,
        client: Client,
        work: impl FnOnce(Cancel) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let (line, time) = match speed {
            Speed::Quick => (&self.quick, QUICK_TIMEOUT),
            Speed::Slow => (&self.slow, SLOW_TIMEOUT),
        };
        let place = line.place(client).await?;
        // Time counts from here on: waiting for a place is not the work's fault.
        let (waiting, patience) = Cancel::new(time);
        // The place is the work's, not the caller's: it goes on for a moment though its client is gone.
        let work = move || {
            let _place = place;
            work(patience)
        };
        let done = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("a request that may take long: {e}"))));
        match done {
            Err(_) if speed == Speed::Quick && waiting.is_over() => Ok(None),
            done => done.map(Some),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// Places, and those that wait for one.
#[derive(Clone, Debug)]
struct Lane(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// How many places one client may have.
    share: usize,
    /// How many places each client has.
    taken: HashMap<Client, usize>,
    waiting: BTreeMap<Client, VecDeque<oneshot::Sender<Slot>>>,
    /// Whose turn was the last.
    last: Client,
}

/// A place, free again when dropped.
#[derive(Debug)]
struct Slot {
    line: Lane,
    client: Client,
}

impl Lane {
    fn new(places: usize, share: usize) -> Self {
        let queue = Queue {
            free: places,
            share: share.max(1),
            taken: HashMap::new(),
            waiting: BTreeMap::new(),
            last: Client::Own,
        };
        Self(Arc::new(Mutex::new(queue)))
    }

    async fn place(&self, client: Client) -> Result<Slot> {
        let (sender, place) = oneshot::channel();
        self.lock().waiting.entry(client).or_default().push_back(sender);
        self.hand_out();
        place.await.map_err(|_| Error::Unavailable("the daemon is stopping".into()))
    }

    /// Gives free places to those that wait.
    fn hand_out(&self) {
        loop {
            // Outside of the lock: a place that is not taken, as its client is gone, comes back.
            let Some((client, sender)) = self.lock().next() else { return };
            let _ = sender.send(Slot { line: self.clone(), client });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that is done under this lock can panic; a poisoned one is as good as new.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes a place for the next client that waits and may have one more.
    fn next(&mut self) -> Option<(Client, oneshot::Sender<Slot>)> {
        if self.free == 0 {
            return None;
        }
        let behind = self.waiting.range((Excluded(self.last), Unbounded));
        let mut clients = behind.chain(self.waiting.range(..=self.last)).map(|(client, _)| *client);
        let client =
            clients.find(|client| self.taken.get(client).is_none_or(|n| *n < self.share))?;
        let queue = self.waiting.get_mut(&client)?;
        let sender = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&client);
        }
        self.free -= 1;
        *self.taken.entry(client).or_default() += 1;
        self.last = client;
        Some((client, sender))
    }

    fn give_back(&mut self, client: Client) {
        self.free += 1;
        if let Some(taken) = self.taken.get_mut(&client) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&client);
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.line.lock().give_back(self.client);
        self.line.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const ONE: Client = Client::Process(1);
    const TWO: Client = Client::Process(2);

    #[test]
    fn clients_take_turns_whatever_one_has_queued() {
        let line = Lane::new(1, 1);
        let mut first = Box::pin(line.place(ONE)).now_or_never().unwrap().ok();
        let mut queued: Vec<_> = (0..5).map(|_| Box::pin(line.place(ONE))).collect();
        for place in &mut queued {
            assert!(place.as_mut().now_or_never().is_none());
        }
        let mut other = Box::pin(line.place(TWO));
        assert!(other.as_mut().now_or_never().is_none());
        first.take();
        assert!(other.as_mut().now_or_never().is_some(), "it waits for one turn only");
    }

    #[test]
    fn one_client_has_its_share_of_slow_places_at_most() {
        let line = Lane::new(2, 1);
        let _first = Box::pin(line.place(ONE)).now_or_never().unwrap();
        assert!(Box::pin(line.place(ONE)).now_or_never().is_none());
        assert!(Box::pin(line.place(TWO)).now_or_never().is_some());
    }

    #[test]
    fn a_place_for_a_client_that_is_gone_goes_to_the_next() {
        let line = Lane::new(1, 1);
        let first = Box::pin(line.place(ONE)).now_or_never().unwrap();
        let mut gone = Box::pin(line.place(ONE));
        let mut other = Box::pin(line.place(TWO));
        assert!(gone.as_mut().now_or_never().is_none() && other.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(other.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn slow_work_starts_again_among_the_slow_and_the_quick_do_not_wait_for_it() {
        let pool = Pool::new();
        let (begun, mut slow_begun) = tokio::sync::mpsc::unbounded_channel();
        let slow: Vec<_> = (0..8)
            .map(|_| {
                let (pool, begun) = (pool.clone(), begun.clone());
                tokio::spawn(async move {
                    let work = move |mut patience: Cancel| {
                        let started = std::time::Instant::now();
                        while started.elapsed() < QUICK_TIMEOUT * 2 {
                            patience.check()?;
                        }
                        let _ = begun.send(());
                        loop {
                            patience.check()?;
                        }
                    };
                    pool.run(ONE, work).await
                })
            })
            .collect();
        // One of them is among the slow now.
        slow_begun.recv().await.unwrap();
        assert_eq!(pool.run(TWO, |_| Ok(7)).await, Ok(7));
        for work in slow {
            work.abort();
            let _ = work.await.map(|done: Result<()>| done);
        }
    }
}
