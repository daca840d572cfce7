//! A job of the writer thread: a write of a caller, and the channel for its answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::model::{Error, Result};
use crate::store::engine::transaction::Transaction;

/// A queued write and the channel to its caller.
pub(crate) trait Job: Send {
    /// Runs in the transaction `change` and keeps the result.
    fn run(&mut self, change: &mut Transaction<'_>);

    /// Answers the caller: with the result of `run`, or with the error of the commit.
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct Task<T, F, G> {
    /// `None` after `run`.
    work: Option<F>,
    then: G,
    outcome: Result<T>,
    caller: oneshot::Sender<Result<T>>,
}

/// A job and the receiver of its answer. The writer thread runs `work`, and calls `then` with its result
/// after the commit and before the answer.
pub(crate) fn job<T, F, G>(work: F, then: G) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>)
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
        // The writes before a panic are rolled back below.
        let all = || work(change).and_then(|value| change.end_job().map(|()| value));
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
                // The write is on disk: a panic in `then` must not turn the answer into an error.
                let _ = catch_unwind(AssertUnwindSafe(|| then(&value)));
                Ok(value)
            }
            (Ok(_), Err(why)) => Err(why),
            // The job did not run.
            (Err(_), Err(why)) if work.is_some() => Err(why),
            (refused, _) => refused,
        };
        // The caller may be gone.
        let _ = caller.send(outcome);
    }
}

/// The error when the writer thread has ended.
pub(crate) fn stopped() -> Error {
    Error::Unavailable("the store is closed".into())
}
