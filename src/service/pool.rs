//! The pool of threads for long requests, and the order in which requests get a thread.
//!
//! The pool has three lanes, each with a number of permits. Work that has a permit runs on a thread of its own.
//!
//! Work starts in the quick lane and may run there for a short time. If it
//! needs more time, the pool ends it and starts it again in the slow lane. If it needs much
//! memory, the pool starts it again in the heavy lane, which runs one request at a time. So a quick
//! request never waits for a slow one. In each lane clients take turns: a client waits for at most one
//! turn of each other client, not for all that another client has queued. One client gets at most half
//! of the permits of the slow lane.
//!
//! Work that waits has no snapshot, no thread and no compiled filter.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::client::Client;
use crate::limits::fair_semaphore::FairSemaphore;
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;

/// How long work may take in the quick lane. A List through 100,000 images takes some 20 ms
/// (`scripts/bench beside`). The filters of a subscription may take as long for one event.
pub(crate) const QUICK_TIMEOUT: Duration = Duration::from_millis(100);

/// How long work may take in the slow or the heavy lane. Only filters that are made to be slow, or many millions of
/// images, reach this bound.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// The memory in bytes that the filters of one request, or a record of containerd's database, may take in the
/// quick or the slow lane. Only large regular expressions, thousands of selectors and records with very many
/// or very long labels take more.
const LIGHT_FILTER_BYTES: usize = 1 << 20;

/// A lane of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For a short time.
    Quick,
    /// For a long time.
    Slow,
    /// For a long time, with filters and records of any size.
    Heavy,
}

/// The outcome of work in a lane.
#[derive(Debug)]
pub(crate) enum Attempt<T> {
    /// The work is done.
    Done(T),
    /// The work must start again in this lane.
    Again(Lane),
}

/// The lanes with their permits. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    quick: FairSemaphore,
    slow: FairSemaphore,
    heavy: FairSemaphore,
}

impl Pool {
    /// A pool whose quick lane has a permit for each processor, whose slow lane has half as many, but at least
    /// two, and whose heavy lane has one.
    pub fn new() -> Self {
        // More threads than processors would wait for each other while their snapshots are open.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let slow = (processors / 2).max(2);
        Self {
            quick: FairSemaphore::new(processors, processors),
            slow: FairSemaphore::new(slow, slow / 2),
            heavy: FairSemaphore::new(1, 1),
        }
    }

    /// Runs `work` in one lane after the other until it has the time and the memory that it needs. `work`
    /// must end when its [`Cancel`] says so. Dropping the future cancels the work.
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

    /// Runs `work` in one lane only.
    pub(crate) async fn run_in<T: Send + 'static>(
        &self,
        lane: Lane,
        client: Client,
        work: impl FnOnce(Cancel) -> Result<T> + Send + 'static,
    ) -> Result<Attempt<T>> {
        let (permits, time, filter_memory) = match lane {
            Lane::Quick => (&self.quick, QUICK_TIMEOUT, LIGHT_FILTER_BYTES),
            Lane::Slow => (&self.slow, SLOW_TIMEOUT, LIGHT_FILTER_BYTES),
            Lane::Heavy => (&self.heavy, SLOW_TIMEOUT, usize::MAX),
        };
        let permit = permits.acquire(client, 1).await;
        // The time of the work begins here: it does not include the wait for a permit.
        let (waiting, cancel) = Cancel::new(time, filter_memory);
        // The work owns the permit: it runs on for a moment after its client has left.
        let work: Box<dyn FnOnce() -> Result<T> + Send> = Box::new(move || {
            let _permit = permit;
            work(cancel)
        });
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

    const SLOW_CLIENT: Client = Client::Process(1);
    const QUICK_CLIENT: Client = Client::Process(2);

    #[tokio::test]
    async fn slow_work_moves_to_the_slow_lane_and_does_not_delay_quick_work() {
        let pool = Pool::new();
        let (started, mut slow_started) = tokio::sync::mpsc::unbounded_channel();
        let slow: Vec<_> = (0..8)
            .map(|_| {
                let (pool, started) = (pool.clone(), started.clone());
                tokio::spawn(async move {
                    let work = move |mut cancel: Cancel| {
                        let start = std::time::Instant::now();
                        while start.elapsed() < QUICK_TIMEOUT * 2 {
                            cancel.check()?;
                        }
                        let _ = started.send(());
                        loop {
                            cancel.check()?;
                        }
                    };
                    pool.run(SLOW_CLIENT, work).await
                })
            })
            .collect();
        // One of the requests is in the slow lane now.
        slow_started.recv().await.unwrap();
        assert_eq!(pool.run(QUICK_CLIENT, |_| Ok(7)).await, Ok(7));
        for work in slow {
            work.abort();
            let _ = work.await.map(|done: Result<()>| done);
        }
    }
}
