//! The health check of the store and, in proxy mode, of containerd.
//!
//! A check does real work. It reads the store, on this thread and on the writer thread. In proxy mode
//! containerd's events must arrive, and containerd must report that it is healthy. A result is cached
//! for [`CACHE_TTL`], so frequent checks cost little.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};
use crate::proxy::images::ProxyImages;
use crate::store::Store;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long containerd may take to answer.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a daemon may take to answer [`ask`]: longer than its own check of its parts.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a result stays valid.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Checks whether the daemon can answer calls. Clones share the cached result.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    store: Store,
    front: Option<ProxyImages>,
    known: Arc<Mutex<Option<CachedVerdict>>>,
}

/// The result of a check, and its time.
#[derive(Debug)]
struct CachedVerdict {
    since: Instant,
    found: Result<()>,
}

impl Health {
    /// Checks `store` and, in proxy mode, the containerd of `front`.
    pub(crate) fn new(store: Store, front: Option<ProxyImages>) -> Self {
        Self { store, front, known: Arc::default() }
    }

    /// Ok when the daemon can answer all calls.
    pub(crate) async fn check(&self) -> Result<()> {
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.since.elapsed() < CACHE_TTL) {
            return known.found.clone();
        }
        let found = match self.store().await {
            Ok(()) => self.containerd().await,
            Err(e) => Err(e),
        };
        *known = Some(CachedVerdict { since: Instant::now(), found: found.clone() });
        found
    }

    /// Ok when the store can be read and written.
    pub(crate) async fn store(&self) -> Result<()> {
        timeout(STORE_TIMEOUT, self.store.probe()).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("the store did not answer within {:?}", STORE_TIMEOUT)))
        })
    }

    /// Ok when a restart would not help: the store answers, or its files have been removed from their
    /// folder. In the second case a restart would lose the names that the open files still serve.
    pub(crate) async fn liveness(&self) -> Result<()> {
        match self.store().await {
            Err(_) if self.store.check_files().is_err() => Ok(()),
            found => found,
        }
    }

    async fn containerd(&self) -> Result<()> {
        let Some(front) = &self.front else { return Ok(()) };
        let containerd = front.containerd();
        let unhealthy = |what: String| {
            Error::Unavailable(format!("containerd at {} {what}", containerd.socket().display()))
        };
        if !front.sync_state().is_watching() {
            return Err(unhealthy("is not followed: names are served, changes are refused".into()));
        }
        let (path, headers) = ("/grpc.health.v1.Health/Check", HeaderMap::new());
        let call = containerd.call(path, None, &headers, HealthCheckRequest::default());
        let found: HealthCheckResponse = timeout(CONTAINERD_TIMEOUT, call)
            .await
            .map_err(|_| unhealthy(format!("did not answer within {:?}", CONTAINERD_TIMEOUT)))?
            .map_err(|status| unhealthy(format!("does not answer: {}", status.message())))?;
        match found.status.enum_value() {
            Ok(ServingStatus::SERVING) => Ok(()),
            other => Err(unhealthy(format!("says that it is {other:?}"))),
        }
    }
}

/// Asks the daemon at `socket` by gRPC whether it serves.
///
/// # Errors
/// `Unavailable` if the daemon does not answer within `time`.
pub(crate) async fn ask(socket: &Path, time: Duration) -> Result<bool> {
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
