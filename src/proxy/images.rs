//! Images in proxy mode: writes go through containerd, reads come from its files.
//!
//! This module has the state that all calls share. The calls are in [`service`](super::service), the steps of a
//! read in [`read`](super::read), those of a write in [`write`](super::write), and the changes of the copy in
//! [`copy`](super::copy).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::containerd::client::GrpcClient;
use crate::metrics::Upstream;
use crate::model::Namespace;
use crate::proxy::live::{Fallback, LiveFiles, LiveReads};
use crate::proxy::reconcile_queue::ReconcileQueue;
use crate::proxy::record_locks::RecordLocks;
use crate::proxy::sync_state::SyncState;
use crate::service::local::LocalImages;

/// Images in proxy mode. Clones share their state.
#[derive(Debug, Clone)]
pub struct ProxyImages {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) containerd: GrpcClient,
    pub(crate) local: LocalImages,
    live: LiveReads,
    pub(crate) sync_state: SyncState,
    pub(crate) locks: RecordLocks,
    reconcile_queue: ReconcileQueue,
    reconciliations: Semaphore,
    large_refreshes: Semaphore,
    /// How long content is kept for an undo.
    pub(crate) undo_keep: Option<Duration>,
    upstream: Upstream,
}

/// The most reconciliations that run at a time.
const MAX_RECONCILIATIONS: usize = 2;

/// The most large records that are read again and stored at a time.
const MAX_LARGE_REFRESHES: usize = 1;

impl ProxyImages {
    /// Forwards writes to `containerd`, and serves reads from `local`.
    pub fn new(containerd: GrpcClient, local: LocalImages, undo_keep: Option<Duration>) -> Self {
        let live = LiveReads::new(local.store().root(), containerd.socket());
        let shared = Shared {
            containerd,
            local,
            live,
            sync_state: SyncState::default(),
            locks: RecordLocks::default(),
            reconcile_queue: ReconcileQueue::default(),
            reconciliations: Semaphore::new(MAX_RECONCILIATIONS),
            large_refreshes: Semaphore::new(MAX_LARGE_REFRESHES),
            undo_keep,
            upstream: Upstream::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The queue of reconciliations.
    pub(crate) fn reconcile_queue(&self) -> &ReconcileQueue {
        &self.shared.reconcile_queue
    }

    /// Waits until one more reconciliation may run. The permit allows it.
    pub(crate) async fn reconcile_permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.reconciliations.acquire().await.ok()
    }

    /// Waits until one more large record may be read again. The permit allows it.
    pub(super) async fn large_refresh_permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.large_refreshes.acquire().await.ok()
    }

    /// The files of containerd, if they can be read now.
    pub fn live(&self) -> Option<Arc<LiveFiles>> {
        self.shared.live.get()
    }

    /// The files to read when containerd does not answer.
    pub(super) fn fallback(&self) -> Fallback {
        self.shared.live.fallback()
    }

    /// Finds the files of containerd, unless an earlier daemon has found them. Until the files are known, a read
    /// can use only the copy if containerd stops.
    pub(crate) async fn know_files(&self) {
        if !self.shared.live.are_known() {
            self.find_files().await;
        }
    }

    /// Finds the files of containerd.
    pub(crate) async fn find_files(&self) {
        self.shared.live.find(&self.shared.containerd).await;
    }

    /// The state of synchronization of each namespace.
    pub fn sync_state(&self) -> &SyncState {
        &self.shared.sync_state
    }

    /// The metrics about containerd.
    pub fn upstream(&self) -> &Upstream {
        &self.shared.upstream
    }

    /// The client of containerd.
    pub fn containerd(&self) -> &GrpcClient {
        &self.shared.containerd
    }

    /// The local copy.
    pub fn local(&self) -> &LocalImages {
        &self.shared.local
    }

    /// Schedules a reconciliation of the namespace.
    pub(crate) fn schedule_reconcile(&self, namespace: &Namespace) {
        self.shared.reconcile_queue.schedule(namespace);
    }

    /// Notes that containerd has the namespace. A new namespace gets a reconciliation.
    pub(crate) fn observe(&self, namespace: &Namespace) {
        if self.shared.sync_state.observe(namespace) {
            self.schedule_reconcile(namespace);
        }
    }
}
