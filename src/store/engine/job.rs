//! A job of the writing thread: what somebody wants changed, and the way back to them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::model::{Error, Result};
use crate::store::engine::transaction::Transaction;

/// A change that waits, with the way back to its caller.
pub trait Job: Send {
    /// Runs in `change`, keeping the answer.
    fn run(&mut self, change: &mut Transaction<'_>);

    /// Answers: with what `run` kept, or with why it was not committed.
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct Task<T, F, G> {
    /// Taken when it is run.
    work: Option<F>,
    then: G,
    outcome: Result<T>,
    caller: oneshot::Sender<Result<T>>,
}

/// A job, and where its answer comes: `work` is run, and `then` called with what it gave when that is on
/// disk, before the answer.
pub fn job<T, F, G>(work: F, then: G) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    G: FnOnce(&T) + Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(Task { work: Some(work), then, outcome: Err(stopped()), caller }), answer)
}

impl<T, F, G> Job for Task<T, F, G>
where
    T: Send,
    F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send,
    G: FnOnce(&T) + Send,
{
    fn run(&mut self, change: &mut Transaction<'_>) {
        let Some(work) = self.work.take() else { return };
        let before = change.begin_job();
        // What it changed until it panicked is forgotten.
        let all = || work(change).and_then(|made| change.end_job().map(|()| made));
        self.outcome = catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|_| {
            Err(Error::Internal("a change panicked; nothing was written".into()))
        });
        if self.outcome.is_err() {
            change.rollback_to(before);
        }
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let Self { work, then, outcome, caller } = *self;
        let outcome = match (outcome, committed) {
            (Ok(value), Ok(())) => {
                // The change is on disk: a fault in what follows must not take that back.
                let _ = catch_unwind(AssertUnwindSafe(|| then(&value)));
                Ok(value)
            }
            (Ok(_), Err(why)) => Err(why),
            // It was not run.
            (Err(_), Err(why)) if work.is_some() => Err(why),
            (refused, _) => refused,
        };
        // A caller that is gone does not want its answer.
        let _ = caller.send(outcome);
    }
}

/// What is told when there is nobody to do it.
pub fn stopped() -> Error {
    Error::Unavailable("the store is closed".into())
}
