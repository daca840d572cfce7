//! Calls to a containerd with a timeout: no command waits for ever.

use std::time::Duration;

use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};

/// How long containerd may take for one reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long containerd may take to show that it is running at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Awaits `call`.
///
/// # Errors
/// The errors of the call, or `DeadlineExceeded` after [`REPLY_TIMEOUT`].
pub(crate) async fn await_reply<T>(
    containerd: &GrpcClient,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(REPLY_TIMEOUT, call).await {
        Ok(reply) => reply,
        Err(_) => Err(Error::DeadlineExceeded(format!(
            "containerd at {} did not answer within {} s: is it containerd that listens there?",
            containerd.socket().display(),
            REPLY_TIMEOUT.as_secs()
        ))),
    }
}

/// Returns true if containerd still answers. After a failed call about one record, this distinguishes a fault of
/// that record from a containerd that is down.
pub(crate) async fn still_answers(containerd: &GrpcClient) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, containerd.namespaces()).await, Ok(Ok(_)))
}
