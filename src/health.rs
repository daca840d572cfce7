//! The health check of the store and, in proxy mode, of containerd.
//!
//! A check does real work. It reads the store, on this thread and on the writer thread. In proxy mode
//! containerd's events must arrive, and containerd must report that it is healthy. The result for each
//! of the two is cached for [`CACHE_TTL`], so frequent checks cost little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::model::{Error, Result};
use crate::proxy::images::ProxyImages;
use crate::store::Store;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long containerd may take to answer.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a result stays valid.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Checks whether the daemon can answer calls. Clones share the cached results.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    store: Store,
    front: Option<ProxyImages>,
    store_result: CachedResult,
    containerd_result: CachedResult,
}

/// The last result of a check. Clones share it.
#[derive(Debug, Clone, Default)]
struct CachedResult(Arc<Mutex<Option<CheckResult>>>);

/// The result of a check, and its time.
#[derive(Debug)]
struct CheckResult {
    at: Instant,
    found: Result<()>,
}

impl CachedResult {
    /// The last result, or that of `check` if the last one is too old. One check runs at a time.
    async fn get(&self, check: impl Future<Output = Result<()>>) -> Result<()> {
        let mut last = self.0.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.at.elapsed() < CACHE_TTL) {
            return last.found.clone();
        }
        let found = check.await;
        *last = Some(CheckResult { at: Instant::now(), found: found.clone() });
        found
    }
}

impl Health {
    /// Checks `store` and, in proxy mode, the containerd of `front`.
    pub(crate) fn new(store: Store, front: Option<ProxyImages>) -> Self {
        let (store_result, containerd_result) = Default::default();
        Self { store, front, store_result, containerd_result }
    }

    /// Ok when the daemon can answer all calls.
    pub(crate) async fn check(&self) -> Result<()> {
        self.store().await?;
        self.containerd_result.get(self.containerd()).await
    }

    /// Ok when a restart would not help: the store answers, or its files have been removed from their
    /// folder. In the second case a restart would lose the names that the open files still serve.
    pub(crate) async fn liveness(&self) -> Result<()> {
        match self.store().await {
            Err(_) if self.store.check_files().is_err() => Ok(()),
            found => found,
        }
    }

    /// Ok when the store can be read and written.
    async fn store(&self) -> Result<()> {
        let probe = async {
            timeout(STORE_TIMEOUT, self.store.probe()).await.unwrap_or_else(|_| {
                let silent = format!("the store did not answer within {:?}", STORE_TIMEOUT);
                Err(Error::Unavailable(silent))
            })
        };
        self.store_result.get(probe).await
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
