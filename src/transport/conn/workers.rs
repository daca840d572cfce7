//! The threads that connections live on.
//!
//! A connection, its calls, and what they are passed on to wake each other all the time. On a
//! runtime whose threads share tasks each such wake-up may go to another thread, which costs more
//! than most calls do. So every connection stays on one thread ([`places`](crate::transport::conn::placement) says which).
//!
//! Whoever is on a thread waits for what runs on it. So a call whose request is large, which takes
//! milliseconds to decode and to check, runs on another that is for such calls alone ([`apart`]).
//! That thread, and those on which lists are built, have less weight than the others, and than those of
//! other processes: who asks for little waits for them least.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use crate::model::{Error, Result};
use crate::transport::conn::placement::Placement;

/// How much nicer what takes long is. Beside a thread that has none, and wants all of a processor, such a
/// thread gets a tenth of it.
const BACKGROUND_NICE: i32 = 10;

/// A few threads, each with a runtime of its own. When dropped, what still runs on them is
/// dropped too.
#[derive(Debug)]
pub struct WorkerPool {
    all: Vec<Worker>,
    places: Placement,
    /// For large requests.
    _large: Worker,
}

thread_local! {
    /// On a thread of connections: the thread for large requests.
    static OFFLOAD: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Runs `work` on the thread for large requests; where there is none, here. Dropped, it ends.
pub async fn offload<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = OFFLOAD.with_borrow(Clone::clone);
    let Some(thread) = thread else { return work.await };
    let mut set = JoinSet::new();
    set.spawn_on(work, &thread);
    match set.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // That thread ends after all others.
        _ => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    // Dropped first: it ends the thread, which is then waited for.
    _end: oneshot::Sender<()>,
    _joined: JoinOnDrop,
}

#[derive(Debug)]
struct JoinOnDrop(Option<JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        // A panic in it was reported when it happened.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

impl WorkerPool {
    /// As many threads as processors, and the one for large requests.
    pub fn start() -> Result<Self> {
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        Self::of(count).map_err(|e| Error::Internal(format!("starting a connection thread: {e}")))
    }

    pub(crate) fn of(count: usize) -> io::Result<Self> {
        let large = Worker::start("large requests", None)?;
        let start = |_| Worker::start("connections", Some(large.runtime.clone()));
        let all = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { all, places: Placement::new(count), _large: large })
    }

    /// Runs `work`, of `set`, for a connection of that process. What it makes of sockets and timers
    /// must be made inside of it.
    pub fn spawn(
        &self,
        set: &mut JoinSet<()>,
        process: Option<i32>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let place = self.places.assign(process);
        let thread = self.all.get(place.thread)?;
        let work = async move {
            work.await;
            drop(place);
        };
        Some(set.spawn_on(work, &thread.runtime))
    }
}

impl Worker {
    fn start(name: &str, large: Option<Handle>) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().on_thread_start(lower_priority).build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            if large.is_none() {
                lower_priority();
            }
            OFFLOAD.set(large);
            // Never sent: it is dropped.
            let _ = runtime.block_on(ended);
            // A list that is being built on a thread of its own is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _end: end, _joined: JoinOnDrop(Some(thread)) })
    }
}

/// Gives the calling thread the weight of what takes long.
fn lower_priority() {
    // To be less nice alone may be refused.
    let _ = rustix::process::nice(BACKGROUND_NICE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_go_where_there_are_fewest() {
        let (threads, mut set) = (WorkerPool::of(2).unwrap(), JoinSet::new());
        let (sender, mut where_it_ran) = tokio::sync::mpsc::unbounded_channel();
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (sender, (end, ended)) = (sender.clone(), oneshot::channel::<()>());
            ends.push(end);
            threads.spawn(&mut set, None, async move {
                sender.send(std::thread::current().id()).unwrap();
                let _ = ended.await;
            });
        }
        let ran = (where_it_ran.recv().await, where_it_ran.recv().await);
        assert_ne!(ran.0, ran.1);
        drop(ends);
        set.join_all().await;
        assert_eq!(
            [(); 2].map(|()| threads.places.assign(None).thread),
            [0, 0],
            "all are free again"
        );
    }

    #[tokio::test]
    async fn what_takes_long_weighs_less() {
        let (threads, mut set) = (WorkerPool::of(1).unwrap(), JoinSet::new());
        let (sender, weights) = std::sync::mpsc::channel();
        threads.spawn(&mut set, None, async move {
            let weight = || rustix::process::getpriority_process(None).unwrap();
            let here = weight();
            let pooled = tokio::task::spawn_blocking(weight).await.unwrap();
            let large = offload(async move { weight() }).await;
            sender.send((here, pooled, large)).unwrap();
        });
        set.join_all().await;
        let here = rustix::process::getpriority_process(None).unwrap();
        let nicer = (here + BACKGROUND_NICE).min(19);
        assert_eq!(weights.recv().unwrap(), (here, nicer, nicer));
    }

    #[tokio::test]
    async fn a_large_request_holds_up_nobody_else_on_its_thread() {
        let (threads, mut set) = (WorkerPool::of(1).unwrap(), JoinSet::new());
        let (begun, begins) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let large = async move {
            offload(async move {
                begun.send(()).unwrap();
                ended.recv().unwrap();
            })
            .await;
        };
        threads.spawn(&mut set, None, large);
        begins.recv().unwrap();
        // On the same thread, which must be free.
        threads.spawn(&mut set, None, async move { end.send(()).unwrap() });
        set.join_all().await;
    }

    #[tokio::test]
    async fn a_panic_in_a_large_request_is_that_of_its_call() {
        let (threads, mut set) = (WorkerPool::of(1).unwrap(), JoinSet::new());
        threads.spawn(&mut set, None, offload(async { panic!("on purpose") }));
        assert!(set.join_next().await.unwrap().unwrap_err().is_panic());
        threads.spawn(&mut set, None, offload(async {}));
        set.join_next().await.unwrap().unwrap();
    }
}
