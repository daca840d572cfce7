//! `lmdb-images health`: asks a running daemon whether it can answer.

use std::path::Path;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};

/// How long the daemon may take. Its own look at its parts takes 7 s at most.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two questions of [`wait`].
const PAUSE: Duration = Duration::from_millis(100);

/// As [`run`], asked again until it serves; ends after `time`, if that is not zero, whatever the daemon
/// does.
pub async fn wait(socket: &Path, time: Duration) -> Result<bool> {
    if time.is_zero() {
        return run(socket, ANSWER).await;
    }
    let begun = Instant::now();
    loop {
        let left = time.saturating_sub(begun.elapsed());
        let said = run(socket, ANSWER.min(left)).await;
        let left = time.saturating_sub(begun.elapsed());
        if matches!(said, Ok(true)) || left.is_zero() {
            return said;
        }
        tokio::time::sleep(PAUSE.min(left)).await;
        if begun.elapsed() >= time {
            return said;
        }
    }
}

/// Whether the daemon behind `socket` serves. An error: it gave no answer within that time.
pub async fn run(socket: &Path, time: Duration) -> Result<bool> {
    let told = |what: String| Error::Unavailable(format!("{}: {what}", socket.display()));
    let (path, headers) = ("/grpc.health.v1.Health/Check", HeaderMap::new());
    // Any gRPC server will do.
    let daemon = GrpcClient::lazy(socket);
    let call = daemon.call(path, None, &headers, HealthCheckRequest::default());
    let found: HealthCheckResponse = tokio::time::timeout(time, call)
        .await
        .map_err(|_| told(format!("no answer within {:.1} s", time.as_secs_f64())))?
        .map_err(|status| told(format!("{:?}: {}", status.code(), status.message())))?;
    Ok(found.status.enum_value() == Ok(ServingStatus::SERVING))
}
