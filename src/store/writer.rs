//! The one thread that writes.
//!
//! LMDB has one writer at a time, and wants a transaction ended on the thread that began it. So a
//! thread takes the jobs that have queued up, runs each inside one transaction, commits, and only
//! then answers them: those who wait share one sync of the disk. A single job is never delayed in
//! the hope of company.
//!
//! **Invariant.** A job whose answer is a success is on disk. A job that answers an error has
//! changed nothing, but where the error itself says that the outcome is unknown.
//!
//! A job may refuse; if it had changed nothing by then, the others in the batch are not touched.
//! If it had, or if it panicked, or LMDB failed, the batch is thrown away and its jobs are run
//! one by one, each in a transaction of its own. A job therefore may run twice, and must decide
//! by what it finds in its transaction only.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::libc::EIO;
use tokio::sync::{mpsc, oneshot};

use super::environment::{Environment, Opened};
use super::{Change, failure};
use crate::metrics::Commits;
use crate::model::{Error, Result};

/// So many jobs may wait; further callers wait to be let in.
const QUEUE: usize = 1024;

/// So many jobs share a commit. More would not make the sync cheaper, only answers later.
const BATCH: usize = 256;

/// Hands changes to the writing thread. Clones share it; when the last is dropped, the accepted
/// jobs are finished and the thread ends.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    commits: Commits,
    // Only held: its drop waits for the thread, after `queue` (declared first) is dropped.
    _thread: Arc<Joined>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("free", &self.queue.capacity()).finish()
    }
}

struct Joined(Mutex<Option<JoinHandle<()>>>);

impl Drop for Joined {
    fn drop(&mut self) {
        let thread = self.0.get_mut().ok().and_then(Option::take);
        // A panic of the thread was reported when it happened; its callers have their errors.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Writer {
    pub(super) fn start(environment: Arc<Environment>) -> Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let commits = Commits::default();
        let counted = commits.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&environment, &counted, jobs))
            .map_err(|e| Error::Internal(format!("starting the writing thread: {e}")))?;
        Ok(Self { queue, commits, _thread: Arc::new(Joined(Mutex::new(Some(thread)))) })
    }

    /// What is counted of its commits.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Runs `work` in a transaction and answers after its commit. Once the job is accepted it ends,
    /// even if the returned future is dropped.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
    {
        self.write_then(work, |_| {}).await
    }

    /// The same, and after the commit, before the answer, `then` with what `work` gave: in the
    /// order of commits, whether or not somebody still waits. It runs on the writing thread and
    /// must be short.
    pub async fn write_then<T, F, G>(&self, work: F, then: G) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) + Send + 'static,
    {
        let (job, answer) = job(work, then);
        self.queue.send(job).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The same for callers outside of an async runtime.
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = job(work, |_| {});
        self.queue.blocking_send(job).map_err(|_| stopped())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> Error {
    Error::Unavailable("the store is closed".into())
}

/// A change that waits, with the way back to its caller.
trait Job: Send {
    /// Runs in `change`, keeping the answer. Returns false when the transaction must be thrown
    /// away.
    fn run(&mut self, change: &mut Change<'_>) -> bool;

    /// Answers: with what `run` kept, or with why it was not committed.
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct Task<T, F, G> {
    work: F,
    then: G,
    outcome: Result<T>,
    caller: oneshot::Sender<Result<T>>,
}

fn job<T, F, G>(work: F, then: G) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
    G: FnOnce(&T) + Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(Task { work, then, outcome: Err(stopped()), caller }), answer)
}

impl<T, F, G> Job for Task<T, F, G>
where
    T: Send,
    F: FnMut(&mut Change<'_>) -> Result<T> + Send,
    G: FnOnce(&T) + Send,
{
    fn run(&mut self, change: &mut Change<'_>) -> bool {
        // What earlier jobs of the batch wrote is not this one's.
        let wrote_before = std::mem::replace(&mut change.wrote, false);
        // `work` is not run again in this transaction, and what it changed is thrown away.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(change)));
        let keep = match outcome {
            Ok(outcome) => {
                self.outcome = outcome;
                change.fault.is_none() && (self.outcome.is_ok() || !change.wrote)
            }
            Err(_) => {
                self.outcome =
                    Err(Error::Internal("a change panicked; nothing was written".into()));
                false
            }
        };
        change.wrote |= wrote_before;
        keep
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let Self { then, outcome, caller, .. } = *self;
        let outcome = match (outcome, committed) {
            (Ok(value), Ok(())) => {
                // The change is on disk: a fault in what follows must not take that back.
                let _ = catch_unwind(AssertUnwindSafe(|| then(&value)));
                Ok(value)
            }
            (Ok(_), Err(why)) => Err(why),
            (refused, _) => refused,
        };
        // A caller that is gone does not want its answer.
        let _ = caller.send(outcome);
    }
}

/// What became of a transaction.
enum End {
    Committed,
    /// Thrown away, nothing of it is on disk.
    Aborted(Error),
    /// The commit failed where LMDB itself cannot tell, and refuses this environment from now on.
    Unknown(Error, Arc<Opened>),
}

fn run(environment: &Environment, commits: &Commits, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        match play(environment, commits, &mut batch) {
            // One by one: only those at fault get the error.
            End::Aborted(_) if batch.len() > 1 => {
                for job in batch.drain(..) {
                    let mut alone = vec![job];
                    let end = play(environment, commits, &mut alone);
                    answer(environment, &mut alone, end);
                }
            }
            end => answer(environment, &mut batch, end),
        }
    }
}

fn answer(environment: &Environment, jobs: &mut Vec<Box<dyn Job>>, end: End) {
    let (outcome, broken) = match end {
        End::Committed => (Ok(()), None),
        End::Aborted(why) => (Err(why), None),
        End::Unknown(why, broken) => (Err(why), Some(broken)),
    };
    for job in jobs.drain(..) {
        job.finish(outcome.clone());
    }
    if let Some(broken) = broken {
        // If it fails, the next job is told.
        let _ = environment.reopen(broken);
    }
}

/// Runs the jobs in one transaction and commits it.
fn play(environment: &Environment, commits: &Commits, jobs: &mut [Box<dyn Job>]) -> End {
    let opened = match environment.get() {
        Ok(opened) => opened,
        Err(why) => return End::Aborted(why),
    };
    let txn = match opened.env.write_txn() {
        Ok(txn) => txn,
        Err(e) => return End::Aborted(failure("beginning to write", &e)),
    };
    let mut change = Change::new(txn, &opened.tables);
    for job in jobs.iter_mut() {
        if !job.run(&mut change) {
            let why = change.fault.take();
            return End::Aborted(
                why.unwrap_or_else(|| Error::Internal("the change was undone".into())),
            );
        }
    }
    if !change.wrote {
        return End::Committed;
    }
    let Change { txn, .. } = change;
    let begun = Instant::now();
    let committed = txn.commit();
    commits.seconds.observe(begun.elapsed().as_secs_f64());
    let Err(e) = committed else {
        commits.jobs.observe(jobs.len() as f64);
        return End::Committed;
    };
    commits.failed.inc();
    log::error!("committing: {e}");
    if !refuses(&opened) {
        return End::Aborted(not_committed(environment, &e));
    }
    // A meta page could not be written: whether it reached the disk is not known.
    End::Unknown(
        Error::Unavailable(format!(
            "committing: {e}: it is unknown whether the change was made; look, or try again"
        )),
        Arc::clone(&opened),
    )
}

/// What is told of a transaction that LMDB aborted when it was to be written.
fn not_committed(environment: &Environment, error: &heed::Error) -> Error {
    match error {
        heed::Error::Io(e) if e.raw_os_error() == Some(EIO) && environment.is_full() => {
            Error::ResourceExhausted("committing: the disk is full; nothing was written".into())
        }
        heed::Error::Io(e) if e.kind() != std::io::ErrorKind::StorageFull => {
            Error::Internal(format!("committing: {e}; nothing was written"))
        }
        other => failure("committing", other),
    }
}

/// LMDB refuses this environment, as it does after a failed write of a meta page.
fn refuses(opened: &Opened) -> bool {
    matches!(opened.env.write_txn(), Err(heed::Error::Mdb(heed::MdbError::Panic)))
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Records, Store};
    use super::*;
    use crate::model::Namespace;

    fn store() -> (tempfile::TempDir, Store, Namespace) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store, Namespace::parse("n").unwrap())
    }

    /// A job that holds the thread until it is told to go on, so that others queue up behind it.
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
        store.read(|s| Ok(s.walk(namespace, Kind::Image)?.count())).unwrap()
    }

    #[test]
    fn a_panic_or_a_refusal_after_a_write_leaves_nothing_and_spares_the_others() {
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
    fn an_accepted_job_ends_though_its_caller_is_gone() {
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
        // Behind the abandoned one in the queue.
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
