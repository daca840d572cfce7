//! The worker threads that serve connections.
//!
//! A connection, its calls and its connection to containerd wake each other all the time. On a
//! work-stealing runtime each wake-up may go to another thread, which costs more than most calls.
//! So every connection stays on one thread, which [`placement`](crate::transport::conn::placement)
//! chooses.
//!
//! The connections of a thread wait for each other. Decoding and checking a large request takes
//! milliseconds, so a thread of its own runs these calls ([`offload`]). That thread, and the threads
//! that build lists, have a lower priority than the workers: small requests wait for them least.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use crate::model::{Context, Result};
use crate::transport::conn::placement::Placement;

/// The nice value that a background thread adds to its own. Beside a busy thread of ordinary
/// priority, a background thread gets a tenth of a processor.
const BACKGROUND_NICE: i32 = 10;

/// The worker threads, each with a runtime of its own. Dropping the pool drops their tasks.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    placement: Placement,
    /// The thread for large requests.
    _offload: Worker,
}

thread_local! {
    /// On a worker that serves connections: the runtime of the thread for large requests.
    static OFFLOAD: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Runs `work` on the thread for large requests, or on the current thread if there is none. Dropping
/// the future drops `work`.
pub(crate) async fn offload<T: Send + 'static>(work: BoxFuture<'static, T>) -> T {
    let thread = OFFLOAD.with_borrow(Clone::clone);
    let Some(thread) = thread else { return work.await };
    let mut set = JoinSet::new();
    set.spawn_on(work, &thread);
    match set.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The thread for large requests ends after all others.
        _ => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    // The field order matters: dropping `_end` ends the thread, and `_joined` then waits for it.
    _end: oneshot::Sender<()>,
    _joined: JoinOnDrop,
}

#[derive(Debug)]
struct JoinOnDrop(Option<JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        // The panic hook has reported a panic of the thread.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

impl WorkerPool {
    /// Starts one worker per processor, and the thread for large requests.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::model::Error::Internal) when the system refuses a thread or a runtime.
    pub fn start() -> Result<Self> {
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        Self::of(count).or_internal("starting a connection thread")
    }

    pub(crate) fn of(count: usize) -> io::Result<Self> {
        let offload = Worker::start("large requests", None)?;
        let start = |_| Worker::start("connections", Some(offload.runtime.clone()));
        let workers = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, placement: Placement::new(count), _offload: offload })
    }

    /// Runs `work` as a task of `set`, for a connection of the process `peer_pid`. `work` itself must
    /// create its sockets and timers, because they belong to the runtime that creates them.
    pub fn spawn(
        &self,
        set: &mut JoinSet<()>,
        peer_pid: Option<i32>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let assignment = self.placement.assign(peer_pid);
        let worker = self.workers.get(assignment.thread)?;
        let work = async move {
            work.await;
            drop(assignment);
        };
        Some(set.spawn_on(work.boxed(), &worker.runtime))
    }
}

impl Worker {
    fn start(name: &str, offload: Option<Handle>) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().on_thread_start(lower_priority).build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            if offload.is_none() {
                lower_priority();
            }
            OFFLOAD.set(offload);
            // The worker drops `_end` to end the thread, and never sends on it.
            let _ = runtime.block_on(ended);
            // Shutting down does not wait for a blocking thread that builds a list.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _end: end, _joined: JoinOnDrop(Some(thread)) })
    }
}

/// Gives the calling thread the priority of a background thread.
fn lower_priority() {
    // The kernel refuses only a lower nice value.
    let _ = rustix::process::nice(BACKGROUND_NICE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_goes_to_the_idlest_worker() {
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
            [(); 2].map(|()| threads.placement.assign(None).thread),
            [0, 0],
            "all are free again"
        );
    }

    #[tokio::test]
    async fn background_threads_have_a_lower_priority() {
        let (threads, mut set) = (WorkerPool::of(1).unwrap(), JoinSet::new());
        let (sender, weights) = std::sync::mpsc::channel();
        threads.spawn(&mut set, None, async move {
            let weight = || rustix::process::getpriority_process(None).unwrap();
            let here = weight();
            let pooled = tokio::task::spawn_blocking(weight).await.unwrap();
            let large = offload(async move { weight() }.boxed()).await;
            sender.send((here, pooled, large)).unwrap();
        });
        set.join_all().await;
        let here = rustix::process::getpriority_process(None).unwrap();
        let nicer = (here + BACKGROUND_NICE).min(19);
        assert_eq!(weights.recv().unwrap(), (here, nicer, nicer));
    }

    #[tokio::test]
    async fn a_large_request_delays_no_other_connection_of_its_worker() {
        let (threads, mut set) = (WorkerPool::of(1).unwrap(), JoinSet::new());
        let (begun, begins) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let large = async move {
            let blocking = async move {
                begun.send(()).unwrap();
                ended.recv().unwrap();
            };
            offload(blocking.boxed()).await;
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
        threads.spawn(&mut set, None, offload(async { panic!("on purpose") }.boxed()));
        assert!(set.join_next().await.unwrap().unwrap_err().is_panic());
        threads.spawn(&mut set, None, offload(async {}.boxed()));
        set.join_next().await.unwrap().unwrap();
    }
}
