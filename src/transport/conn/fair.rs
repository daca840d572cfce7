//! Turns: how much of one connection is read before the others of its thread have had theirs.
//!
//! The tasks of a thread run one after the other, and each request that is read makes some. Were all read
//! as they come, a call would wait behind all that others have sent. So a connection that has sent
//! more than fits into a turn waits for its next one: there is one at a time on a thread, and between two
//! of them everything else that is ready runs, and what has come in meanwhile is seen. A connection
//! that has sent less waits for nobody: who asks now and then goes ahead of those who ask without end.
//!
//! It says nothing of how much one request takes: that is bounded elsewhere.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};

/// A turn, in bytes of data; for what weighs more than data see [`CALL`].
pub const QUANTUM: usize = 8 * CALL_COST;

/// To begin a call takes about as long as to read so many bytes of data.
pub const CALL_COST: usize = 16 << 10;

thread_local! {
    /// One turn at a time.
    static ROUND: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// The turns of one connection.
pub struct FairShare {
    gate: Arc<Semaphore>,
    left: usize,
    next: Option<oneshot::Receiver<()>>,
}

impl FairShare {
    /// For a connection that lives on this thread. Its first turn is now.
    pub fn new() -> Self {
        Self { gate: ROUND.with(Arc::clone), left: QUANTUM, next: None }
    }

    /// Ready while something is left of the turn, then when the next one comes.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            let gate = &self.gate;
            // An error: the runtime ends, and so does the connection.
            let _ = ready!(self.next.get_or_insert_with(|| wait(gate)).poll_unpin(cx));
            self.next = None;
            self.left = QUANTUM;
        }
        Poll::Ready(())
    }

    /// So much of the turn is over.
    pub fn charge(&mut self, work: usize) {
        self.left = self.left.saturating_sub(work);
    }

    /// All that has come was read.
    pub fn refill(&mut self) {
        self.left = QUANTUM;
    }
}

/// Waits for a turn on this thread.
pub async fn next_round() {
    // An error: the runtime ends.
    let _ = ROUND.with(wait).await;
}

/// Is told when the next turn comes. By a task of its own, so that this is never at once, and what was read
/// in the turn before has begun by then.
fn wait(gate: &Arc<Semaphore>) -> oneshot::Receiver<()> {
    let (begin, begins) = oneshot::channel();
    let gate = Arc::clone(gate);
    tokio::spawn(async move {
        // It is never closed.
        let _turn = gate.acquire().await;
        if begin.send(()).is_ok() {
            // The turn is over when all that is ready now has run, and what has come in was seen.
            tokio::task::yield_now().await;
        }
    });
    begins
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Mutex;

    #[tokio::test]
    async fn who_has_much_waits_for_a_turn_and_who_has_little_does_not() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let client = |name: &'static str, work: usize, is_greedy: bool| {
            let said = Arc::clone(&said);
            async move {
                let mut turns = FairShare::new();
                for _ in 0..work {
                    poll_fn(|cx| turns.poll_ready(cx)).await;
                    turns.charge(QUANTUM / 2);
                    said.lock().unwrap().push(name);
                    if !is_greedy {
                        turns.refill();
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        let greedy: Vec<_> = (0..20).map(|_| tokio::spawn(client("greedy", 20, true))).collect();
        tokio::spawn(client("modest", 10, false)).await.unwrap();
        let before = said.lock().unwrap().iter().filter(|name| **name == "greedy").count();
        assert!(before <= 20 * 2 + 10 * 3, "{before} of 400 went before 10");
        for task in greedy {
            task.await.unwrap();
        }
        assert_eq!(said.lock().unwrap().len(), 410, "and all came to an end");
    }
}
