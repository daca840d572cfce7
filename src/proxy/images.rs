//! Images in proxy mode: writes go through containerd, reads come from its database or from LMDB.
//!
//! A read is answered by [`live_reads`](crate::proxy::live_reads), or else by containerd, so it is never
//! older than an answer of containerd's. Only if containerd cannot be reached either, LMDB answers alone.
//!
//! **Invariant.** The LMDB copy of a record equalled containerd's record at some moment while the
//! record's lock was held.
//!
//! Under the record's lock, a write forwards the client's request to containerd and stores
//! containerd's answer. It runs in a detached task: a client that disconnects cannot stop it halfway.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use http::HeaderMap;
use protobuf::Message;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, ListImagesRequest, UpdateImageRequest, UpdateImageResponse,
};
use crate::containerd::client::{GrpcClient, MAX_NAME};
use crate::limits::decoded_size;
use crate::limits::memory::SMALL;
use crate::log_throttle::throttled_log;
use crate::metrics::{Source, Upstream};
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::live::{LiveFiles, LiveReads};
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome, WRITE_TIMEOUT};
use crate::proxy::reconcile_queue::ReconcileQueue;
use crate::proxy::record_locks::RecordLocks;
use crate::proxy::sync_state::SyncState;
use crate::service::codec::encode;
use crate::service::local::{self, LocalImages};
use crate::service::{CallContext, Images, Reply, gc, images, namespaces};
use crate::store::engine::transaction::MAX_SET_ASIDE;
use crate::store::{Cause, Kind, Origin, Records, Transaction};

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
    wanted: ReconcileQueue,
    resyncs: Semaphore,
    /// The time of the last call that containerd left unanswered.
    pub(crate) silent: Mutex<Option<Instant>>,
    upstream: Upstream,
}

/// Reconciliations that run at a time.
const MAX_RESYNCS: usize = 2;

/// The result of a refresh: the record in containerd, and the effect in LMDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// containerd has the record, and LMDB has stored it.
    Kept,
    /// containerd does not have the record, and LMDB has removed it.
    Removed,
    /// Neither has the record.
    Absent,
}

impl ProxyImages {
    /// Forwards writes to `containerd`, and serves reads from `local`.
    pub fn new(containerd: GrpcClient, local: LocalImages) -> Self {
        let shared = Shared {
            containerd,
            local,
            live: LiveReads::default(),
            sync_state: SyncState::default(),
            locks: RecordLocks::default(),
            wanted: ReconcileQueue::default(),
            resyncs: Semaphore::new(MAX_RESYNCS),
            silent: Mutex::default(),
            upstream: Upstream::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The queue of reconciliations.
    pub fn wanted(&self) -> &ReconcileQueue {
        &self.shared.wanted
    }

    /// Waits until one more reconciliation may run. The permit allows it.
    pub(crate) async fn reconcile_permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.resyncs.acquire().await.ok()
    }

    /// The files of containerd, if they can be read now.
    pub fn live(&self) -> Option<Arc<LiveFiles>> {
        self.shared.live.get()
    }

    /// Finds the files of containerd.
    pub(crate) async fn find_files(&self) {
        self.shared.live.find(&self.shared.containerd).await;
    }

    /// The state of synchronization of each namespace.
    pub fn sync_state(&self) -> &SyncState {
        &self.shared.sync_state
    }

    /// The metrics of containerd.
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
    pub fn schedule_reconcile(&self, namespace: &Namespace) {
        self.shared.wanted.namespace(namespace);
    }

    /// Notes that containerd has the namespace. A new namespace gets a reconciliation.
    pub(crate) fn observe(&self, namespace: &Namespace) {
        if self.shared.sync_state.observe(namespace) {
            self.schedule_reconcile(namespace);
        }
    }

    /// Reads one record from containerd and stores it. If containerd does not have the record, LMDB
    /// deletes its copy, or sets it aside when `aside` is true.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when containerd does not answer; [`Error::Upstream`] when it refuses.
    pub async fn refresh(&self, namespace: &Namespace, name: &str, aside: bool) -> Result<Found> {
        self.refresh_as(Origin::ORIGIN_BEHIND, namespace, name, aside).await
    }

    /// The same. The log of changes says what led to it.
    pub(crate) async fn refresh_as(
        &self,
        origin: Origin,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<Found> {
        let cause = Cause::own(origin);
        let _lock = self.shared.locks.lock(namespace, name).await;
        match self.live().map(|files| files.database.image(namespace, name)) {
            Some(Ok(Some(found))) => {
                return self.store_record(cause, namespace, Some(found)).await.map(|_| Found::Kept);
            }
            Some(Ok(None)) => return self.remove(cause, namespace, name, aside).await,
            // containerd must say what it has.
            Some(Err(_)) | None => {}
        }
        if name.len() > MAX_NAME {
            return match self.shared.containerd.find_image(namespace, name).await? {
                Some(found) => {
                    self.store_record(cause, namespace, Some(found)).await.map(|_| Found::Kept)
                }
                None => self.remove(cause, namespace, name, aside).await,
            };
        }
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        let headers = HeaderMap::new();
        match self
            .ask::<_, GetImageResponse>(path, namespace, &headers, request, READ_TIMEOUT)
            .await
        {
            UpstreamOutcome::Answer(found) => {
                let found = found.image.into_option();
                self.store_record(cause, namespace, found).await.map(|_| Found::Kept)
            }
            UpstreamOutcome::Refused(Error::Upstream(code, _))
                if code == tonic::Code::NotFound as i32 =>
            {
                self.remove(cause, namespace, name, aside).await
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(why))
            }
        }
    }

    async fn remove(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<Found> {
        let was_there = self.remove_record(cause, namespace, name, aside).await?.is_some();
        Ok(if was_there { Found::Removed } else { Found::Absent })
    }

    /// Stores a record of containerd, and its namespace. Gives the number of the change in the log, or 0.
    pub(super) async fn store_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        found: Option<Image>,
    ) -> Result<u64> {
        let Some(found) = found else { return Ok(0) };
        let found = image::normalize_record(found);
        let (record, ns) = (encode(&found)?, namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            if change.record(&ns, Kind::Image, &found.name).is_ok_and(|r| r == Some(&record)) {
                return Ok(0);
            }
            namespaces::ensure(change, &ns)?;
            let expires = gc::expires(&found.labels);
            // containerd has the image again, so its copy of before has done its work.
            change.forget_aside(&ns, Kind::Image, &found.name)?;
            change.put(&ns, Kind::Image, &found.name, &record, expires)?;
            Ok(change.last_seq())
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Deletes a record from LMDB, or sets it aside. Gives the number of the change in the log if the record
    /// existed.
    pub(crate) async fn remove_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<Option<u64>> {
        let (ns, name) = (namespace.clone(), name.to_owned());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            let was_there = if !aside {
                change.delete(&ns, Kind::Image, &name)?
            } else if change.can_set_aside(&ns, Kind::Image, &name)? {
                change.set_aside(&ns, Kind::Image, &name)?
            } else {
                throttled_log!(
                    Warn,
                    "image {} in namespace {ns}, which containerd no longer has, is removed and not set \
                     aside: {MAX_SET_ASIDE} images are set aside, and no more are kept; to drop those, \
                     start the daemon with a new root folder: it reads all names from containerd",
                    quote(&name)
                );
                change.delete(&ns, Kind::Image, &name)?
            };
            Ok(was_there.then(|| change.last_seq()))
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Forwards a change to containerd and stores the answer, even if the client disconnects. So the
    /// change keeps a reservation of `bytes`, the memory of request and answer, until it ends. With a
    /// `target`, the change is made only if the image has that digest.
    #[allow(clippy::too_many_arguments)]
    async fn write<Q, R>(
        &self,
        call: &CallContext,
        path: &'static str,
        name: String,
        target: String,
        bytes: usize,
        request: Q,
        made: impl FnOnce(&R) -> Option<Image> + Send + 'static,
    ) -> Result<Reply>
    where
        Q: Message,
        R: Message,
    {
        let (proxy, namespace, headers) = (self.clone(), call.namespace()?, call.headers.clone());
        let (limit, cause) = (call.reply_limit, call.cause());
        if name.len() > MAX_NAME {
            return Err(Error::InvalidArgument(format!(
                "the image name has {} bytes; in front of a containerd at most {MAX_NAME} are accepted: \
                 choose a shorter name, or change this image on containerd's own socket",
                name.len()
            )));
        }
        let mut hold = self.shared.local.share(bytes).await;
        let detached = tokio::spawn(async move {
            // The timeout includes the wait for an earlier write to the same record.
            let begun = tokio::time::Instant::now();
            let lock = proxy.shared.locks.lock(&namespace, &name);
            let Ok(_lock) = tokio::time::timeout(WRITE_TIMEOUT, lock).await else {
                return Err(Error::Unavailable(format!(
                    "containerd has not answered an earlier change of image {}; nothing was changed",
                    quote(&name)
                )));
            };
            proxy.check_target(&namespace, &name, &target).await?;
            let time = WRITE_TIMEOUT.saturating_sub(begun.elapsed()).max(READ_TIMEOUT);
            match proxy.ask::<Q, R>(path, &namespace, &headers, request, time).await {
                UpstreamOutcome::Answer(answer) => {
                    proxy.apply_result(cause, &namespace, &name, made(&answer)).await;
                    let message = encode(&answer)?;
                    if let Some(hold) = &mut hold {
                        hold.shrink(message.len());
                    }
                    Ok(Reply { message, hold })
                }
                UpstreamOutcome::Refused(e) => Err(e),
                UpstreamOutcome::NotSent(why) => Err(Error::Unavailable(format!(
                    "{why}; nothing was changed: try again when it is back"
                ))),
                UpstreamOutcome::Indeterminate(why) => {
                    proxy.schedule_reconcile(&namespace);
                    Err(Error::Unavailable(format!(
                        "{why}; it is unknown whether the change was made: try again or look"
                    )))
                }
            }
        });
        let into_error = |e| Error::Internal(format!("writing an image: {e}"));
        let reply = detached.await.map_err(into_error)??;
        if reply.message.len() > limit {
            return Err(Error::message_too_large(reply.message.len(), limit));
        }
        Ok(reply)
    }

    /// Asks containerd for the answer to a read. `None` if it cannot be reached: then only the copy in
    /// LMDB can answer.
    async fn read_upstream<Q: Message>(
        &self,
        call: &CallContext,
        path: &'static str,
        namespace: &Namespace,
        request: Q,
        small: usize,
    ) -> Option<Result<Reply>> {
        if self.upstream_responsive() {
            match self.ask_for_reply(call, path, namespace, request, small).await {
                UpstreamOutcome::Answer(found) => {
                    self.upstream().read(Source::Containerd);
                    return Some(Ok(found));
                }
                UpstreamOutcome::Refused(e) => return Some(Err(e)),
                UpstreamOutcome::NotSent(_) | UpstreamOutcome::Indeterminate(_) => {}
            }
        }
        self.upstream().read(Source::Copy);
        None
    }

    /// Stores the result of a write, and gives the number of the change in the log. containerd has made the
    /// change already, so the write succeeds even if LMDB cannot store the result.
    pub(super) async fn apply_result(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        made: Option<Image>,
    ) -> u64 {
        let stored = match made {
            Some(image) => {
                self.observe(namespace);
                self.store_record(cause, namespace, Some(image)).await
            }
            None => {
                let removed = self.remove_record(cause, namespace, name, false).await;
                removed.map(Option::unwrap_or_default)
            }
        };
        stored.unwrap_or_else(|e| {
            throttled_log!(Error, "image {} in namespace {namespace}: {e}", quote(name));
            self.schedule_reconcile(namespace);
            0
        })
    }

    /// Checks the target of a Delete, because containerd 1.x ignores it and deletes the image anyway.
    async fn check_target(&self, namespace: &Namespace, name: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let get = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        match self
            .ask::<_, GetImageResponse>(path, namespace, &HeaderMap::new(), get, READ_TIMEOUT)
            .await
        {
            UpstreamOutcome::Answer(found) if found.image.target.digest != *wanted => {
                Err(Error::not_found(format_args!(
                    "image {} has target {}, not {wanted}",
                    quote(name),
                    found.image.target.digest
                )))
            }
            UpstreamOutcome::Answer(_) => Ok(()),
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(format!("{why}; nothing was changed")))
            }
        }
    }
}

#[async_trait]
impl Images for ProxyImages {
    fn are_of_database(&self, path: &Path) -> bool {
        self.live().is_some_and(|files| files.database.is_at(path))
    }

    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        if let Some(answer) = self.get_live(call, &namespace, &request.name).await {
            return answer;
        }
        let path = "/containerd.services.images.v1.Images/Get";
        match self.read_upstream(call, path, &namespace, request.clone(), SMALL).await {
            Some(answer) => answer,
            None => self.shared.local.get(call, request).await,
        }
    }

    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        if let Some(answer) = self.list_live(call, &namespace, &request).await {
            return answer;
        }
        let path = "/containerd.services.images.v1.Images/List";
        match self.read_upstream(call, path, &namespace, request.clone(), 0).await {
            Some(answer) => answer,
            None => self.shared.local.list(call, request).await,
        }
    }

    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "CreateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Create";
        let made = |answer: &CreateImageResponse| answer.image.clone().into_option();
        let bytes = local::image_bytes(&checked) + local::reply_bytes(&checked);
        self.write(call, path, checked.name, String::new(), bytes, request, made).await
    }

    async fn update(&self, call: &CallContext, request: UpdateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "UpdateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Update";
        let made = |answer: &UpdateImageResponse| answer.image.clone().into_option();
        // The answer contains the stored record, too. Without a local copy, the record may have any
        // size.
        let stored = match self.shared.local.record_bytes(&call.namespace()?, &checked.name) {
            0 => images::MAX_RECORD_BYTES,
            bytes => bytes,
        };
        let mask = decoded_size::strings(&request.update_mask.paths);
        let bytes = local::image_bytes(&checked) + local::reply_bytes(&checked) + mask + stored;
        self.write(call, path, checked.name, String::new(), bytes, request, made).await
    }

    async fn delete(&self, call: &CallContext, request: DeleteImageRequest) -> Result<Reply> {
        let path = "/containerd.services.images.v1.Images/Delete";
        let (name, target) = (request.name.clone(), request.target.digest.clone());
        let gone = |_: &protobuf::well_known_types::empty::Empty| None;
        let bytes = decoded_size::decoded(&request, 0);
        self.write(call, path, name, target, bytes, request, gone).await
    }
}
