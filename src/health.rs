//! Whether calls can be answered: by the store, and by the containerd behind, if there is one.
//!
//! Something is really done to find out. The store is read, here and on its writing thread; of
//! containerd its events must be coming in, and it must call itself healthy. Whoever asks shortly
//! after another gets the same answer, so that asking cannot be a burden.

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

/// How long the store, and containerd, may take to answer.
const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How long an answer holds.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Finds out whether calls can be answered. Clones share what they found.
#[derive(Debug, Clone)]
pub struct Health {
    store: Store,
    front: Option<ProxyImages>,
    known: Arc<Mutex<Option<CachedVerdict>>>,
}

/// What was found, and when.
#[derive(Debug)]
struct CachedVerdict {
    since: Instant,
    found: Result<()>,
}

impl Health {
    /// Of a store, and of the containerd that it is in front of.
    pub fn new(store: Store, front: Option<ProxyImages>) -> Self {
        Self { store, front, known: Arc::default() }
    }

    /// Nothing when all calls can be answered; else why not.
    pub async fn check(&self) -> Result<()> {
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

    /// Nothing when the store can be read and written; else why not.
    pub async fn store(&self) -> Result<()> {
        timeout(ANSWER.0, self.store.probe()).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("the store did not answer within {:?}", ANSWER.0)))
        })
    }

    /// Nothing when a restart would not help: the store answers, or its files are no longer in their
    /// folder. A restart would lose the names that are still served from the open files then.
    pub async fn liveness(&self) -> Result<()> {
        match self.store().await {
            Err(_) if self.store.check_files().is_err() => Ok(()),
            found => found,
        }
    }

    async fn containerd(&self) -> Result<()> {
        let Some(front) = &self.front else { return Ok(()) };
        let containerd = front.containerd();
        let told = |what: String| {
            Error::Unavailable(format!("containerd at {} {what}", containerd.socket().display()))
        };
        if !front.sync_state().is_watching() {
            return Err(told("is not followed: names are served, changes are refused".into()));
        }
        let (path, headers) = ("/grpc.health.v1.Health/Check", HeaderMap::new());
        let call = containerd.call(path, None, &headers, HealthCheckRequest::default());
        let found: HealthCheckResponse = timeout(ANSWER.1, call)
            .await
            .map_err(|_| told(format!("did not answer within {:?}", ANSWER.1)))?
            .map_err(|status| told(format!("does not answer: {}", status.message())))?;
        match found.status.enum_value() {
            Ok(ServingStatus::SERVING) => Ok(()),
            other => Err(told(format!("says that it is {other:?}"))),
        }
    }
}
