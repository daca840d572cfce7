//! `lmdb-images health`: asks a running daemon whether it can answer.

use std::path::Path;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::front::client::Containerd;
use crate::model::{Error, Result};

/// How long the daemon may take. Its own look at its parts takes 7 s at most.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two questions of [`wait`].
const PAUSE: Duration = Duration::from_millis(100);

/// As [`run`], asked again until it serves, or that long.
pub async fn wait(socket: &Path, time: Duration) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let said = run(socket).await;
        if matches!(said, Ok(true)) || begun.elapsed() >= time {
            return said;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the daemon behind `socket` serves. An error: nobody could be asked.
pub async fn run(socket: &Path) -> Result<bool> {
    let told = |what: String| Error::Unavailable(format!("{}: {what}", socket.display()));
    let (path, headers) = ("/grpc.health.v1.Health/Check", HeaderMap::new());
    // Any gRPC server will do.
    let daemon = Containerd::lazy(socket);
    let call = daemon.call(path, None, &headers, HealthCheckRequest::default());
    let found: HealthCheckResponse = tokio::time::timeout(ANSWER, call)
        .await
        .map_err(|_| told(format!("no answer within {ANSWER:?}")))?
        .map_err(|status| told(format!("{:?}: {}", status.code(), status.message())))?;
    Ok(found.status.enum_value() == Ok(ServingStatus::SERVING))
}
