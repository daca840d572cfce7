//! `lmdb-images health`: asks a running daemon for its gRPC health status.

use std::path::Path;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::time::timeout;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};

/// How long a daemon may take to answer: longer than its own check of its parts.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);

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

/// Asks the daemon at `socket` by gRPC whether it serves.
///
/// # Errors
/// `Unavailable` if the daemon does not answer within `time`.
async fn ask(socket: &Path, time: Duration) -> Result<bool> {
    let failed = |what: String| Error::Unavailable(format!("{}: {what}", socket.display()));
    let (path, headers) = ("/grpc.health.v1.Health/Check", HeaderMap::new());
    // `lazy` does not require a containerd at the other end.
    let daemon = GrpcClient::lazy(socket);
    let call = daemon.call(path, None, &headers, HealthCheckRequest::default());
    let found: HealthCheckResponse = timeout(time, call)
        .await
        .map_err(|_| failed(format!("no answer within {:.1} s", time.as_secs_f64())))?
        .map_err(|status| failed(format!("{:?}: {}", status.code(), status.message())))?;
    Ok(found.status.enum_value() == Ok(ServingStatus::SERVING))
}
