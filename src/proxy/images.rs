//! Images in front of a containerd: writes go through it, reads come from LMDB.
//!
//! **Invariant.** What LMDB has of a record was, at some moment while its lock was held, what
//! containerd had; in a current namespace that moment is the last change of the record, but for the
//! time an event needs.
//!
//! A write is sent to containerd as the client sent it, and containerd's answer is stored, under
//! the record's lock. That runs detached: a client that leaves does not leave half of it behind.

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
use crate::metrics::Upstream;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::ask::{ANSWER, UpstreamOutcome};
use crate::proxy::reconcile_queue::ReconcileQueue;
use crate::proxy::record_locks::RecordLocks;
use crate::proxy::sync_state::SyncState;
use crate::service::codec::encode;
use crate::service::local::{self, LocalImages};
use crate::service::{CallContext, Images, Reply, gc, images, namespaces};
use crate::store::{Kind, Records, Transaction};

/// Images in front of a containerd. Clones are the same.
#[derive(Debug, Clone)]
pub struct ProxyImages {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) containerd: GrpcClient,
    pub(crate) local: LocalImages,
    spaces: SyncState,
    locks: RecordLocks,
    wanted: ReconcileQueue,
    resyncs: Semaphore,
    /// When containerd last let a call go unanswered.
    pub(crate) silent: Mutex<Option<Instant>>,
    upstream: Upstream,
}

/// Resyncs that run at a time.
const MAX_RESYNCS: usize = 2;

/// What containerd had of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A record, which is here now.
    Kept,
    /// None, and that which was here went.
    Removed,
    /// None, and there was none here.
    Absent,
}

impl ProxyImages {
    /// Images of the containerd behind `containerd`, with `local` as the copy that is read.
    pub fn new(containerd: GrpcClient, local: LocalImages) -> Self {
        let shared = Shared {
            containerd,
            local,
            spaces: SyncState::default(),
            locks: RecordLocks::default(),
            wanted: ReconcileQueue::default(),
            resyncs: Semaphore::new(MAX_RESYNCS),
            silent: Mutex::default(),
            upstream: Upstream::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is to be read again.
    pub fn wanted(&self) -> &ReconcileQueue {
        &self.shared.wanted
    }

    /// Waits until one more resync may run; it may while what is returned lives.
    pub(crate) async fn resync_place(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.resyncs.acquire().await.ok()
    }

    /// Which namespaces are current.
    pub fn sync_state(&self) -> &SyncState {
        &self.shared.spaces
    }

    /// What is counted of the containerd.
    pub fn upstream(&self) -> &Upstream {
        &self.shared.upstream
    }

    /// The containerd.
    pub fn containerd(&self) -> &GrpcClient {
        &self.shared.containerd
    }

    /// The copy.
    pub fn local(&self) -> &LocalImages {
        &self.shared.local
    }

    /// Has a namespace read again, soon.
    pub fn schedule_reconcile(&self, namespace: &Namespace) {
        self.shared.wanted.namespace(namespace);
    }

    /// Containerd has the namespace: when that is news, it is read.
    pub(crate) fn meet(&self, namespace: &Namespace) {
        if self.shared.spaces.observe(namespace) {
            self.schedule_reconcile(namespace);
        }
    }

    /// Reads one record of containerd and stores it. `aside`: what containerd does not have is kept
    /// aside, not deleted.
    pub async fn refresh(&self, namespace: &Namespace, name: &str, aside: bool) -> Result<Found> {
        let _lock = self.shared.locks.lock(namespace, name).await;
        if name.len() > MAX_NAME {
            return match self.shared.containerd.find_image(namespace, name).await? {
                Some(found) => {
                    self.store_record(namespace, Some(found)).await.map(|()| Found::Kept)
                }
                None => self.remove(namespace, name, aside).await,
            };
        }
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        let headers = HeaderMap::new();
        match self.ask::<_, GetImageResponse>(path, namespace, &headers, request, ANSWER.0).await {
            UpstreamOutcome::Answer(found) => {
                self.store_record(namespace, found.image.into_option()).await.map(|()| Found::Kept)
            }
            UpstreamOutcome::Refused(Error::Upstream(code, _))
                if code == tonic::Code::NotFound as i32 =>
            {
                self.remove(namespace, name, aside).await
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::Unreached(why) | UpstreamOutcome::Unknown(why) => {
                Err(Error::Unavailable(why))
            }
        }
    }

    async fn remove(&self, namespace: &Namespace, name: &str, aside: bool) -> Result<Found> {
        let was_there = self.remove_record(namespace, name, aside).await?;
        Ok(if was_there { Found::Removed } else { Found::Absent })
    }

    /// Stores a record of containerd's, with its namespace.
    async fn store_record(&self, namespace: &Namespace, found: Option<Image>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let found = image::normalize_record(found);
        let (record, ns) = (encode(&found)?, namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            if change.record(&ns, Kind::Image, &found.name).is_ok_and(|r| r == Some(&record)) {
                return Ok(());
            }
            namespaces::ensure(change, &ns)?;
            let expires = gc::expires(&found.labels);
            change.put(&ns, Kind::Image, &found.name, &record, expires)
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Deletes a record here, or sets it aside; says whether there was one.
    pub(crate) async fn remove_record(
        &self,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<bool> {
        let (ns, name) = (namespace.clone(), name.to_owned());
        let work = move |change: &mut Transaction<'_>| {
            if aside {
                change.set_aside(&ns, Kind::Image, &name)
            } else {
                change.delete(&ns, Kind::Image, &name)
            }
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Sends a change to containerd and stores what it answers, whether or not the client waits: so it
    /// holds `bytes` of the budget, what request and answer take, as long as it goes on. With a `target`,
    /// only while the image has that digest.
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
        let (front, namespace, headers) = (self.clone(), call.namespace()?, call.headers.clone());
        let limit = call.reply_limit;
        if name.len() > MAX_NAME {
            return Err(Error::InvalidArgument(format!(
                "the image name has {} bytes; in front of a containerd at most {MAX_NAME} are accepted: \
                 choose a shorter name, or change this image on containerd's own socket",
                name.len()
            )));
        }
        let mut hold = self.shared.local.share(bytes).await;
        let detached = tokio::spawn(async move {
            // The wait for a write before this one, that containerd leaves unanswered, counts.
            let begun = tokio::time::Instant::now();
            let lock = front.shared.locks.lock(&namespace, &name);
            let Ok(_lock) = tokio::time::timeout(ANSWER.1, lock).await else {
                return Err(Error::Unavailable(format!(
                    "containerd has not answered an earlier change of image {}; nothing was changed",
                    quote(&name)
                )));
            };
            front.check_target(&namespace, &name, &target).await?;
            let time = ANSWER.1.saturating_sub(begun.elapsed()).max(ANSWER.0);
            match front.ask::<Q, R>(path, &namespace, &headers, request, time).await {
                UpstreamOutcome::Answer(answer) => {
                    front.apply_result(&namespace, &name, made(&answer)).await;
                    let message = encode(&answer)?;
                    if let Some(hold) = &mut hold {
                        hold.shrink(message.len());
                    }
                    Ok(Reply { message, hold })
                }
                UpstreamOutcome::Refused(e) => Err(e),
                UpstreamOutcome::Unreached(why) => Err(Error::Unavailable(format!(
                    "{why}; nothing was changed: try again when it is back"
                ))),
                UpstreamOutcome::Unknown(why) => {
                    front.shared.spaces.invalidate(&namespace);
                    front.schedule_reconcile(&namespace);
                    Err(Error::Unavailable(format!(
                        "{why}; it is unknown whether the change was made: try again or look"
                    )))
                }
            }
        });
        let told = |e| Error::Internal(format!("writing an image: {e}"));
        let reply = detached.await.map_err(told)??;
        if reply.message.len() > limit {
            return Err(Error::message_too_large(reply.message.len(), limit));
        }
        Ok(reply)
    }

    /// Stores what a write made. It is done in containerd: when it cannot be stored here, the
    /// namespace is in doubt, and the write has succeeded all the same.
    async fn apply_result(&self, namespace: &Namespace, name: &str, made: Option<Image>) {
        let stored = match made {
            Some(image) => {
                self.meet(namespace);
                self.store_record(namespace, Some(image)).await
            }
            None => self.remove_record(namespace, name, false).await.map(drop),
        };
        if let Err(e) = stored {
            throttled_log!(Error, "image {} in namespace {namespace}: {e}", quote(name));
            self.shared.spaces.invalidate(namespace);
            self.schedule_reconcile(namespace);
        }
    }

    /// containerd 1.x ignores the target of a Delete and would delete whatever is there.
    async fn check_target(&self, namespace: &Namespace, name: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let get = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        match self
            .ask::<_, GetImageResponse>(path, namespace, &HeaderMap::new(), get, ANSWER.0)
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
            UpstreamOutcome::Unreached(why) | UpstreamOutcome::Unknown(why) => {
                Err(Error::Unavailable(format!("{why}; nothing was changed")))
            }
        }
    }
}

#[async_trait]
impl Images for ProxyImages {
    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let is_current = self.shared.spaces.is_synced(&namespace);
        if is_current && let Ok(found) = self.shared.local.get(call, request.clone()).await {
            return Ok(found);
        }
        if !self.upstream_responsive() {
            return self.shared.local.get(call, request).await;
        }
        let path = "/containerd.services.images.v1.Images/Get";
        let name = request.name.clone();
        match self.ask_for_reply(call, path, &namespace, request.clone(), SMALL).await {
            UpstreamOutcome::Answer(found) => {
                if is_current {
                    // It came behind our back, and its event is still on its way.
                    let (front, namespace) = (self.clone(), namespace.clone());
                    tokio::spawn(async move { front.refresh(&namespace, &name, false).await });
                } else {
                    self.meet(&namespace);
                }
                Ok(found)
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::Unreached(_) | UpstreamOutcome::Unknown(_) => {
                self.shared.local.get(call, request).await
            }
        }
    }

    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        if self.shared.spaces.is_synced(&namespace) || !self.upstream_responsive() {
            return self.shared.local.list(call, request).await;
        }
        let path = "/containerd.services.images.v1.Images/List";
        match self.ask_for_reply(call, path, &namespace, request.clone(), 0).await {
            UpstreamOutcome::Answer(found) => {
                if !found.message.is_empty() {
                    self.meet(&namespace);
                }
                Ok(found)
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::Unreached(_) | UpstreamOutcome::Unknown(_) => {
                self.shared.local.list(call, request).await
            }
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
        // The answer has what is stored, too; when that is not known here, it may be as large as any.
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
