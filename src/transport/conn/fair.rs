//! Fair queuing: the connections of a thread take turns to read requests.
//!
//! The tasks of a thread run one after the other, and each request adds tasks. If the server read
//! every request at once, a call would wait behind all requests of the other connections. So a
//! connection may read one quantum of input, and then waits for its next round. A thread runs one
//! round at a time. Between two rounds it runs every task that is ready, and polls its sockets. A
//! connection that sends less than a quantum never waits for a round, so an occasional request
//! overtakes a flood.
//!
//! The cost of a single request is bounded elsewhere, by [`crate::limits::memory`].

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};

/// The input that a connection may read in one round, in bytes of data. [`CALL_COST`] converts a
/// call into bytes.
pub(crate) const QUANTUM: usize = 8 * CALL_COST;

/// The cost of a new call: beginning one takes about as long as reading this many bytes of data.
pub(crate) const CALL_COST: usize = 16 << 10;

thread_local! {
    /// One permit: a thread runs one round at a time.
    static ROUND: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// The quantum of one connection.
pub(crate) struct FairShare {
    round: Arc<Semaphore>,
    left: usize,
    next: Option<oneshot::Receiver<()>>,
}

impl Default for FairShare {
    /// A full quantum, for a connection of this thread.
    fn default() -> Self {
        Self { round: ROUND.with(Arc::clone), left: QUANTUM, next: None }
    }
}

impl FairShare {
    /// Ready while some of the quantum is left, else when the connection's next round begins.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            let round = &self.round;
            // An error means that the runtime shuts down, and the connection with it.
            let _ = ready!(self.next.get_or_insert_with(|| queue(round)).poll_unpin(cx));
            self.next = None;
            self.left = QUANTUM;
        }
        Poll::Ready(())
    }

    /// Takes `cost` off the quantum.
    pub(crate) fn charge(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
    }

    /// Restores the full quantum: the connection has read all its input.
    pub(crate) fn refill(&mut self) {
        self.left = QUANTUM;
    }
}

/// Waits for the next round of this thread.
pub(crate) async fn next_round() {
    // An error means that the runtime shuts down.
    let _ = ROUND.with(queue).await;
}

/// Queues for a round; the receiver gets a message when the round begins. A task of its own sends
/// the message, so a round never begins at once: the calls read in the round before begin first.
fn queue(round: &Arc<Semaphore>) -> oneshot::Receiver<()> {
    let (begin, begins) = oneshot::channel();
    let round = Arc::clone(round);
    tokio::spawn(async move {
        // The semaphore is never closed.
        let _permit = round.acquire().await;
        if begin.send(()).is_ok() {
            // The round ends when every ready task has run and the sockets have been polled.
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
    async fn a_flood_waits_for_its_rounds_and_an_occasional_request_does_not() {
        let served = Arc::new(Mutex::new(Vec::new()));
        let client = |name: &'static str, work: usize, is_greedy: bool| {
            let served = Arc::clone(&served);
            async move {
                let mut share = FairShare::default();
                for _ in 0..work {
                    poll_fn(|cx| share.poll_ready(cx)).await;
                    share.charge(QUANTUM / 2);
                    served.lock().unwrap().push(name);
                    if !is_greedy {
                        share.refill();
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        let greedy: Vec<_> = (0..20).map(|_| tokio::spawn(client("greedy", 20, true))).collect();
        tokio::spawn(client("modest", 10, false)).await.unwrap();
        let before = served.lock().unwrap().iter().filter(|name| **name == "greedy").count();
        assert!(before <= 20 * 2 + 10 * 3, "{before} of 400 went before 10");
        for task in greedy {
            task.await.unwrap();
        }
        assert_eq!(served.lock().unwrap().len(), 410, "and all came to an end");
    }
}
