//! The threads on which requests that may take long run, and the order in which they get one.
//!
//! Work first gets a place in the quick lane, for a short time. Work that needs more is ended and starts
//! again in the slow lane, which has places of its own: however many slow requests there are, a quick
//! one waits for quick ones only. Work whose filters take much memory is ended, too, and starts again
//! in the heavy lane, which has one place. In each lane clients take turns, so that a client waits for
//! one turn of each other client at most, not for all that another has queued. Of the slow places one
//! client has half at most.
//!
//! Work that waits holds nothing: no snapshot, no thread, no compiled filter.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::client::Client;
use crate::limits::fair_semaphore::FairSemaphore;
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;

/// How long work may take in a quick place. A List through 100,000 images takes some 20 ms
/// (`scripts/bench beside`). The filters of a subscription may take as long for one event.
pub const QUICK_TIMEOUT: Duration = Duration::from_millis(100);

/// How long work may take in a slow place. Only filters that are made to be slow, or many millions of
/// images, take so long.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// The memory in bytes that the filters of one request may take in a quick or a slow place. Only large
/// regular expressions, and thousands of selectors, take more.
const LIGHT_FILTER_BYTES: usize = 1 << 20;

/// Where work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// For a short time.
    Quick,
    /// For a long time.
    Slow,
    /// For a long time, with filters of any size.
    Heavy,
}

/// What became of work in a lane.
#[derive(Debug)]
pub enum Attempt<T> {
    /// It is done.
    Done(T),
    /// It needs this lane.
    Again(Lane),
}

/// The places for work. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    quick: FairSemaphore,
    slow: FairSemaphore,
    heavy: FairSemaphore,
}

impl Pool {
    /// As many quick places as processors, half as many slow ones, but two at least, and a heavy one.
    pub fn new() -> Self {
        // More than the processors at once would only wait for each other, and hold snapshots.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let slow = (processors / 2).max(2);
        Self {
            quick: FairSemaphore::new(processors, processors),
            slow: FairSemaphore::new(slow, slow / 2),
            heavy: FairSemaphore::new(1, 1),
        }
    }

    /// Runs `work`, which must do as its [`Cancel`] says, in one lane after the other until it has the
    /// time and the memory that it needs. Dropped, it ends.
    pub async fn run<T: Send + 'static>(
        &self,
        client: Client,
        work: impl Fn(Cancel) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let work = Arc::new(work);
        let mut lane = Lane::Quick;
        loop {
            let work = Arc::clone(&work);
            match self.run_in(lane, client, move |cancel| work(cancel)).await? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Again(next) => lane = next,
            }
        }
    }

    /// The same, in one lane only.
    pub async fn run_in<T: Send + 'static>(
        &self,
        lane: Lane,
        client: Client,
        work: impl FnOnce(Cancel) -> Result<T> + Send + 'static,
    ) -> Result<Attempt<T>> {
        let (places, time, filter_memory) = match lane {
            Lane::Quick => (&self.quick, QUICK_TIMEOUT, LIGHT_FILTER_BYTES),
            Lane::Slow => (&self.slow, SLOW_TIMEOUT, LIGHT_FILTER_BYTES),
            Lane::Heavy => (&self.heavy, SLOW_TIMEOUT, usize::MAX),
        };
        let place = places.acquire(client, 1).await;
        // Time counts from here on: waiting for a place is not the work's fault.
        let (waiting, cancel) = Cancel::new(time, filter_memory);
        // The place is the work's, not the caller's: it goes on for a moment though its client is gone.
        let work = move || {
            let _place = place;
            work(cancel)
        };
        let done = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("a request that may take long: {e}"))));
        match done {
            Ok(done) => Ok(Attempt::Done(done)),
            Err(_) if waiting.lacks_memory() => Ok(Attempt::Again(Lane::Heavy)),
            Err(_) if lane == Lane::Quick && waiting.is_over() => Ok(Attempt::Again(Lane::Slow)),
            Err(e) => Err(e),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Client = Client::Process(1);
    const TWO: Client = Client::Process(2);

    #[tokio::test]
    async fn slow_work_starts_again_among_the_slow_and_the_quick_do_not_wait_for_it() {
        let pool = Pool::new();
        let (begun, mut slow_begun) = tokio::sync::mpsc::unbounded_channel();
        let slow: Vec<_> = (0..8)
            .map(|_| {
                let (pool, begun) = (pool.clone(), begun.clone());
                tokio::spawn(async move {
                    let work = move |mut cancel: Cancel| {
                        let started = std::time::Instant::now();
                        while started.elapsed() < QUICK_TIMEOUT * 2 {
                            cancel.check()?;
                        }
                        let _ = begun.send(());
                        loop {
                            cancel.check()?;
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
