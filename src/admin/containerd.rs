//! Calls of a containerd that a command waits for: none of them for ever.

use std::time::Duration;

use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};

/// How long a containerd may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take to show that it is there at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a call, or an error after [`ANSWER_TIMEOUT`].
pub async fn answer<T>(
    containerd: &GrpcClient,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(answered) => answered,
        Err(_) => Err(Error::DeadlineExceeded(format!(
            "containerd at {} did not answer within {} s: is it containerd that listens there?",
            containerd.socket().display(),
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}

/// Whether it still answers, after a call about one record failed: then the failure is of that record.
pub async fn is_there(containerd: &GrpcClient) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, containerd.namespaces()).await, Ok(Ok(_)))
}
