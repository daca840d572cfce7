//! The writer thread.
//!
//! The writer thread takes the queued jobs as one batch. It runs the jobs one after the other, and each job
//! sees the writes of the jobs before it. Then the thread commits all their writes together
//! ([`committer`](crate::store::engine::committer)) and answers the jobs. So the jobs of a batch share one
//! sync of the disk. The thread never delays a job to wait for others.
//!
//! **Invariant.** If the answer to a job is a success, the writes of the job are on disk. If the answer is
//! an error, the job changed nothing, unless the error says that the outcome is unknown.
//!
//! If a job fails or panics, the thread rolls back the writes of that job; the other jobs of the batch are
//! not affected. Between batches the thread makes a checkpoint when one is due, or when the thread has been
//! idle for [`CHECKPOINT_IDLE`].

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc::EIO;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::log_throttle::throttled_log;
use crate::metrics::Commits;
use crate::model::{Context, Error, Result};
use crate::store::dir::disk_space;
use crate::store::engine::committer::CommitFailure;
use crate::store::engine::environment::Environment;
use crate::store::engine::job::{Job, job, stopped};
use crate::store::engine::open_environment::{OpenEnvironment, view_to_write};
use crate::store::engine::transaction::{BatchChanges, Transaction};
use crate::store::error::lmdb_error;

/// The most jobs in the queue. While the queue is full, callers wait.
const QUEUE_LEN: usize = 1024;

/// The writer thread makes a checkpoint after it has been idle for this long.
const CHECKPOINT_IDLE: Duration = Duration::from_millis(100);

/// The time between a failed checkpoint and the next attempt.
const CHECKPOINT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The most jobs in a batch. A larger batch would hardly save syncs, and would delay the answers.
const MAX_BATCH_JOBS: usize = 256;

/// Sends jobs to the writer thread. Clones share the thread. When the last clone is dropped, the
/// thread finishes the accepted jobs and ends.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    commits: Commits,
    // Never read. Dropping the last clone waits for the thread to end. `queue` must be dropped before,
    // because the thread ends when the queue is closed; so `queue` is declared first.
    _thread: Arc<JoinOnDrop>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("free", &self.queue.capacity()).finish()
    }
}

struct JoinOnDrop(Option<JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        // If the thread panicked, the panic was reported then, and the waiting callers got an error.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

impl Writer {
    pub(crate) fn start(environment: Arc<Environment>) -> Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_LEN);
        let commits = Commits::default();
        let metrics = commits.clone();
        let clock = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .or_internal("starting the writer thread")?;
        let writing = WriterThread { environment, commits: metrics, clock, retry_at: None };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writing.run(jobs))
            .or_internal("starting the writer thread")?;
        Ok(Self { queue, commits, _thread: Arc::new(JoinOnDrop(Some(thread))) })
    }

    /// The metrics of commits and checkpoints.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Runs `work` in a transaction and returns after the commit. Once the queue has accepted the job, the
    /// job runs to its end even if the caller drops the returned future.
    ///
    /// # Errors
    /// The error of `work`; or the reason why the commit failed; or `Unavailable` if the writer thread has
    /// ended.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.write_then(work, |_| {}).await
    }

    /// Like [`write`](Self::write), and also calls `then` with the result of `work`, after the commit and
    /// before the answer. `then` runs on the writer thread, so it must be short. The calls of `then` are in
    /// the order of the jobs, and happen even if the caller has dropped the future.
    pub(crate) async fn write_then<T, F, G>(&self, work: F, then: G) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) + Send + 'static,
    {
        let (job, answer) = job(work, then);
        self.queue.send(job).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Like [`write`](Self::write), for callers outside of an async runtime.
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = job(work, |_| {});
        self.queue.blocking_send(job).map_err(|_| stopped())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }
}

/// The state of the writer thread.
struct WriterThread {
    environment: Arc<Environment>,
    commits: Commits,
    clock: Runtime,
    /// When to retry a failed checkpoint. `None` if the last checkpoint did not fail.
    retry_at: Option<Instant>,
}

impl WriterThread {
    fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Vec::with_capacity(MAX_BATCH_JOBS);
        while self.wait(&mut jobs, &mut batch) > 0 {
            let (committed, broken) = self.commit(&mut batch);
            for job in batch.drain(..) {
                job.finish(committed.clone());
            }
            if let Some(broken) = broken {
                // If reopening fails, the jobs of the next batch get the error.
                let _ = self.environment.reopen(broken);
            } else if self.checkpoint_due() {
                self.checkpoint();
            }
        }
        self.checkpoint();
        if let Ok(opened) = self.environment.acquire()
            && let Err(failed) = opened.close()
        {
            log::debug!("closing: {failed}; the journal is needed when the store is opened again");
        }
    }

    /// Waits until the queue has jobs and moves them into `batch`. Meanwhile makes the checkpoints that are
    /// due. Returns the number of jobs: 0 when the queue is closed.
    fn wait(
        &mut self,
        jobs: &mut mpsc::Receiver<Box<dyn Job>>,
        batch: &mut Vec<Box<dyn Job>>,
    ) -> usize {
        while self.environment.has_uncheckpointed() {
            let now = Instant::now();
            let pause =
                self.retry_at.map_or(CHECKPOINT_IDLE, |at| at.saturating_duration_since(now));
            let next_jobs = async { timeout(pause, jobs.recv_many(batch, MAX_BATCH_JOBS)).await };
            match self.clock.block_on(next_jobs) {
                Ok(count) => return count,
                Err(_) => self.checkpoint(),
            }
        }
        jobs.blocking_recv_many(batch, MAX_BATCH_JOBS)
    }

    fn checkpoint_due(&self) -> bool {
        match self.retry_at {
            // If a batch is too large for the journal, its commit makes a checkpoint. Then the next attempt,
            // which is due at once, clears `retry_at`.
            Some(at) => at <= Instant::now() || !self.environment.has_uncheckpointed(),
            None => self.environment.checkpoint_due(),
        }
    }

    /// Runs the jobs and commits their writes. Also returns the environment if the caller must reopen it.
    fn commit(&self, jobs: &mut [Box<dyn Job>]) -> (Result<()>, Option<Arc<OpenEnvironment>>) {
        let (opened, changes) = match self.run_in_view(jobs) {
            Ok(done) => done,
            Err(why) => return (Err(why), None),
        };
        if changes.writes.is_empty() {
            return (Ok(()), None);
        }
        let started = Instant::now();
        let committed = opened.commit(changes);
        self.commits.seconds.observe(started.elapsed().as_secs_f64());
        let Err(failed) = committed else {
            self.commits.jobs.observe(jobs.len() as f64);
            return (Ok(()), None);
        };
        self.commits.failed.inc();
        throttled_log!(Error, "committing: {failed}");
        let unknown = |why: String| {
            Error::Unavailable(format!(
                "committing: {why}: it is unknown whether the change was made; look, or try again"
            ))
        };
        match failed {
            CommitFailure::Aborted(error) => (Err(error), None),
            CommitFailure::Lmdb(e) => (Err(not_committed(&self.environment, &e)), None),
            CommitFailure::Unknown(why) => (Err(unknown(why)), None),
            CommitFailure::EnvironmentLost(why) => (Err(unknown(why)), Some(opened)),
            CommitFailure::NotAttempted(why) => {
                let why = format!("committing: {why}: nothing was written; try again");
                (Err(Error::Unavailable(why)), Some(opened))
            }
        }
    }

    fn run_in_view(
        &self,
        jobs: &mut [Box<dyn Job>],
    ) -> Result<(Arc<OpenEnvironment>, BatchChanges)> {
        self.environment.check_files()?;
        let mut opened = self.environment.acquire()?;
        loop {
            let changed = view_to_write(&opened)?.map(|(view, log)| {
                let mut change = Transaction::new(view, log);
                jobs.iter_mut().for_each(|job| job.run(&mut change));
                change.into_changes()
            });
            match changed {
                Some(changes) => return Ok((opened, changes)),
                None => opened = self.environment.reopen(opened)?,
            }
        }
    }

    /// Writes the overlay (the writes that only the journal has) to LMDB's file. If the disk is full or
    /// faulty, the writes stay in the journal, and the thread tries again after
    /// [`CHECKPOINT_RETRY_INTERVAL`].
    fn checkpoint(&mut self) {
        let failed_before =
            self.retry_at.replace(Instant::now() + CHECKPOINT_RETRY_INTERVAL).is_some();
        let Ok(opened) = self.environment.acquire() else { return };
        let started = Instant::now();
        let done = opened.checkpoint();
        self.commits.checkpoints.observe(started.elapsed().as_secs_f64());
        let Err(failed) = done else {
            self.retry_at = None;
            if failed_before {
                log::info!("the changes that were only in the journal are in LMDB's file now");
            }
            return;
        };
        self.commits.failed_checkpoints.inc();
        // Log only the first failure: while the disk is full, every attempt fails.
        if !failed_before {
            log::error!(
                "a checkpoint failed: {failed}; its changes are safe in the journal; it is tried \
                 again"
            );
        }
        if let CommitFailure::EnvironmentLost(_) = failed {
            let _ = self.environment.reopen(opened);
        }
    }
}

/// The error that the jobs of a batch get if LMDB aborted the transaction while it wrote it.
fn not_committed(environment: &Environment, error: &heed::Error) -> Error {
    match error {
        heed::Error::Io(e) if e.raw_os_error() == Some(EIO) && environment.is_full() => {
            Error::ResourceExhausted("committing: the disk is full; nothing was written".into())
        }
        heed::Error::Io(e) if !disk_space::is_full_error(e) => {
            Error::Internal(format!("committing: {e}; nothing was written"))
        }
        other => lmdb_error("committing", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Namespace;
    use crate::store::{Kind, Records, Store};

    fn store() -> (tempfile::TempDir, Store, Namespace) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store, Namespace::parse("n").unwrap())
    }

    /// Sends a job that blocks the writer thread until the test sends a message. Jobs sent meanwhile wait in
    /// the queue and form one batch.
    fn gate(store: &Store) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<Result<()>>) {
        let (go, wait) = std::sync::mpsc::channel();
        let (inside, entered) = std::sync::mpsc::channel();
        let store = store.clone();
        let thread = std::thread::spawn(move || {
            store.writer().write_blocking(move |_| {
                inside.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            })
        });
        entered.recv().unwrap();
        (go, thread)
    }

    fn names(store: &Store, namespace: &Namespace) -> usize {
        store.read(|s| Ok(s.scan(namespace, Kind::Image)?.count())).unwrap()
    }

    #[test]
    fn a_panic_or_refusal_after_a_write_changes_nothing_and_affects_no_other_job() {
        let (_dir, store, ns) = store();
        let (go, held) = gate(&store);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outcomes = runtime.block_on(async {
            let put = |name: &'static str, then: fn() -> Result<()>| {
                let (writer, ns) = (store.writer().clone(), ns.clone());
                async move {
                    writer
                        .write(move |c| {
                            c.put(&ns, Kind::Image, name, b"", None)?;
                            then()
                        })
                        .await
                }
            };
            let opened = async { go.send(()).unwrap() };
            tokio::join!(
                biased;
                put("good", || Ok(())),
                put("refuses", || Err(Error::not_found("x"))),
                put("panics", || panic!("on purpose")),
                put("also good", || Ok(())),
                opened,
            )
        });
        held.join().unwrap().unwrap();
        assert_eq!(outcomes.0, Ok(()));
        assert_eq!(outcomes.1, Err(Error::not_found("x")));
        assert!(matches!(outcomes.2, Err(Error::Internal(_))));
        assert_eq!(outcomes.3, Ok(()));
        assert_eq!(names(&store, &ns), 2);
    }

    #[test]
    fn an_accepted_job_runs_after_its_caller_has_left() {
        let (_dir, store, ns) = store();
        let (go, held) = gate(&store);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ns = ns.clone();
            let write = store.writer().write(move |c| c.put(&ns, Kind::Image, "i", b"", None));
            tokio::select! { biased; _ = write => panic!("the gate is closed"), () = std::future::ready(()) => {} }
        });
        go.send(()).unwrap();
        held.join().unwrap().unwrap();
        // The queue is in order: once this job is done, the abandoned job is done.
        store.writer().write_blocking(|_| Ok(())).unwrap();
        assert_eq!(names(&store, &ns), 1);
    }

    #[test]
    fn a_job_sees_what_earlier_jobs_of_its_batch_wrote() {
        let (_dir, store, ns) = store();
        let (go, held) = gate(&store);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen = runtime.block_on(async {
            let (first, second) = (ns.clone(), ns.clone());
            tokio::join!(
                biased;
                store.writer().write(move |c| c.put(&first, Kind::Image, "i", b"x", None)),
                store.writer().write(move |c| Ok(c.record(&second, Kind::Image, "i")?.map(<[u8]>::to_vec))),
                async { go.send(()).unwrap() },
            )
            .1
        });
        held.join().unwrap().unwrap();
        assert_eq!(seen, Ok(Some(b"x".to_vec())));
    }
}
