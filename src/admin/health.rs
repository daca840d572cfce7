//! `lmdb-images health`: asks a running daemon for its gRPC health status.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::health::{REPLY_TIMEOUT, ask};
use crate::model::Result;

/// Pause between two calls of [`wait`].
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Repeats [`ask`] until the daemon serves, for at most `time`. Calls once if `time` is zero.
pub(crate) async fn wait(socket: &Path, time: Duration) -> Result<bool> {
    if time.is_zero() {
        return ask(socket, REPLY_TIMEOUT).await;
    }
    let started = Instant::now();
    loop {
        let left = time.saturating_sub(started.elapsed());
        let outcome = ask(socket, REPLY_TIMEOUT.min(left)).await;
        let left = time.saturating_sub(started.elapsed());
        if matches!(outcome, Ok(true)) || left.is_zero() {
            return outcome;
        }
        tokio::time::sleep(RETRY_INTERVAL.min(left)).await;
        if started.elapsed() >= time {
            return outcome;
        }
    }
}
