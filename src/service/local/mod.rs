//! Images over the local store.
//!
//! Only this module connects async code to the synchronous store. Writes go to the writer thread. A Get runs
//! on the thread of the connection, because it is one look-up in mapped memory. A List of a few
//! look-ups runs there too. Any other List runs on a pool, because it may read every record.
//!
//! - `change`: changes; reads are here

mod change;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::events::{Exchange, OwnEvent};
use super::images::query::{self, Query};
use super::images::{self, ReplyLimits};
use super::pool::{Attempt, Lane, Pool};
use super::reply::BuildOutcome;
use super::{CallContext, Images, Reply, leases};
use crate::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use crate::limits::client::Client;
use crate::limits::decoded_size;
use crate::limits::memory::{MemoryBudget, ReplyBuffer, Reservation};
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::gc;
use crate::service::gc::Collector;
use crate::store::{Kind, Records, Snapshot, Store, Transaction};

/// Images served from the local store.
#[derive(Debug, Clone)]
pub struct LocalImages {
    store: Store,
    replies: MemoryBudget,
    pool: Pool,
    events: Exchange,
    collector: Arc<Collector>,
}

impl LocalImages {
    /// Serves `store`; its large replies share `replies`.
    pub fn new(store: Store, replies: MemoryBudget) -> Self {
        Self {
            store,
            replies,
            pool: Pool::new(),
            events: Exchange::default(),
            collector: Arc::default(),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The exchange of its events.
    pub fn events(&self) -> &Exchange {
        &self.events
    }

    /// The collector of expired images and leases.
    pub fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// Removes what has expired, and sends the events of the removed images.
    pub async fn collect(&self) -> Result<()> {
        gc::run::collect(&self.collector, &self.store, &self.events).await
    }

    /// The bytes of the record of an image; 0 if there is no record or it cannot be read. The next read returns
    /// the error.
    pub(crate) fn record_bytes(&self, namespace: &Namespace, name: &str) -> usize {
        let bytes = |s: &Snapshot<'_>| Ok(s.record(namespace, Kind::Image, name)?.map(<[u8]>::len));
        self.store.read(bytes).ok().flatten().unwrap_or(0)
    }

    /// Builds a reply with `build` on the pool, in a buffer that grows while the memory budget allows. If the
    /// budget runs out, `build` only measures the reply; then the call reserves that size, and builds
    /// again. `measured` is the size, if the caller knows it. The work is cancelled when the caller leaves.
    pub(crate) async fn build_reply<B>(
        &self,
        call: &CallContext,
        mut measured: Option<usize>,
        build: B,
    ) -> Result<Reply>
    where
        B: Fn(&Store, ReplyBuffer<'_>, Cancel) -> Result<BuildOutcome> + Send + Sync + 'static,
    {
        let (build, limit) = (Arc::new(build), call.reply_limit);
        let mut lane = Lane::Quick;
        loop {
            // The call has no reservation while it waits for one: two calls with one could wait for each other.
            let reservation = match measured {
                Some(size) if size > limit => return Err(Error::message_too_large(size, limit)),
                Some(size) => self.replies.reserve(call.client, size).await,
                None => None,
            };
            let (store, budget, client, build) =
                (self.store.clone(), self.replies.clone(), call.client, Arc::clone(&build));
            let work = move |cancel| {
                let buffer = match measured {
                    Some(size) => ReplyBuffer::fixed(size, reservation),
                    None => ReplyBuffer::elastic(&budget, client, limit),
                };
                build(&store, buffer, cancel)
            };
            match self.pool.run_in(lane, call.client, work).await? {
                Attempt::Again(next) => lane = next,
                Attempt::Done(BuildOutcome { reply: Some(reply), .. }) => return Ok(reply),
                Attempt::Done(built) => measured = Some(built.size),
            }
        }
    }

    /// Lists images from a snapshot that `accepts` accepts; returns `None` if `accepts` refuses it. `accepts`
    /// must return at once if it gets no [`Cancel`]. If it refuses then, it is called again with one, on the
    /// pool.
    ///
    /// # Errors
    /// The errors of a List, and of `accepts`.
    pub(crate) async fn list_if<F>(
        &self,
        call: &CallContext,
        request: ListImagesRequest,
        accepts: F,
    ) -> Result<Option<Reply>>
    where
        F: Fn(&Snapshot<'_>, Option<&mut Cancel>) -> Result<bool> + Send + Sync + 'static,
    {
        let namespace = call.namespace()?;
        let mut measured = None;
        if is_simple(&request.filters) {
            let (query, buffer) = (Query::new(&request.filters)?, self.reply_buffer(call));
            // The images are few and the filters have no regular expression, but an image may have many labels.
            let (waiting, cancel) = Cancel::new(INLINE_TIMEOUT, 0);
            let list = |s: &Snapshot<'_>| match accepts(s, None)? {
                true => query::list_if_few(s, &namespace, &query, buffer, cancel),
                false => Ok(None),
            };
            match self.store.read(list) {
                Ok(Some(BuildOutcome { reply: Some(reply), .. })) => return Ok(Some(reply)),
                Ok(Some(built)) => measured = Some(built.size),
                Ok(None) => {}
                Err(_) if waiting.is_over() => {}
                Err(e) => return Err(e),
            }
        }
        let is_refused = Arc::new(AtomicBool::new(false));
        let refused = Arc::clone(&is_refused);
        // Each attempt compiles the filters again, because a request that waits must not keep the memory of
        // compiled filters. It compiles them before it opens a snapshot, because compiling may take long.
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, mut cancel: Cancel| {
            let query = Query::compile(&request.filters, &mut cancel)?;
            store.read(|s| {
                if !accepts(s, Some(&mut cancel))? {
                    refused.store(true, Ordering::Relaxed);
                    return Err(Error::Unavailable("the snapshot is refused".into()));
                }
                query::list(s, &namespace, &query, buffer, cancel)
            })
        };
        match self.build_reply(call, measured, build).await {
            Err(_) if is_refused.load(Ordering::Relaxed) => Ok(None),
            listed => listed.map(Some),
        }
    }

    /// The buffer for the reply of a call.
    pub(crate) fn reply_buffer(&self, call: &CallContext) -> ReplyBuffer<'_> {
        ReplyBuffer::elastic(&self.replies, call.client, call.reply_limit)
    }

    /// The pool for long reads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for a reservation of the budget that large replies and pending changes share.
    pub async fn reserve(&self, client: Client, bytes: usize) -> Option<Reservation> {
        self.replies.reserve(client, bytes).await
    }

    /// A reply of a finished message. Waits for its reservation.
    pub(crate) async fn reserve_reply(&self, client: Client, message: Vec<u8>) -> Result<Reply> {
        let reservation = self.replies.reserve(client, message.len()).await;
        Ok(Reply { message, reservation })
    }
}

/// How long a List may take on the thread of the connection.
pub(crate) const INLINE_TIMEOUT: Duration = Duration::from_millis(5);

/// Whether filters are simple enough to be parsed on the thread of the connection: short, and without regular
/// expressions, whose compilation may take as long as a scan.
pub(crate) fn is_simple(filters: &[String]) -> bool {
    const SHORT: usize = 1024;
    filters.iter().map(String::len).sum::<usize>() <= SHORT
        && !filters.iter().any(|filter| filter.contains('~'))
}

/// The approximate bytes of the reply that carries this image. The times and the heads are added later.
pub(crate) fn reply_bytes(image: &Image) -> usize {
    const TIMES_AND_HEADS: usize = 64;
    decoded_size::decoded(image, 0).saturating_add(TIMES_AND_HEADS)
}

/// The memory in bytes that an image takes.
pub(crate) fn image_bytes(image: &Image) -> usize {
    decoded_size::decoded(image, image.labels.len() + image.target.annotations.len())
}

#[async_trait]
impl Images for LocalImages {
    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let buffer = self.reply_buffer(call);
        let built = self.store.read(|s| images::get(s, &namespace, &request.name, buffer))?;
        if let Some(reply) = built.reply {
            return Ok(reply);
        }
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, _: Cancel| {
            store.read(|s| images::get(s, &namespace, &request.name, buffer))
        };
        self.build_reply(call, Some(built.size), build).await
    }

    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply> {
        let listed = self.list_if(call, request, |_, _| Ok(true)).await?;
        listed.ok_or_else(|| Error::Internal("a list that is always made was not made".into()))
    }

    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply> {
        let mut image = image::from_request(request.image, "CreateImageRequest")?;
        call.namespace()?;
        image::validate(&image)?;
        let (epoch, name) = (request.source_date_epoch, image.name.clone());
        let lease = call.lease();
        let (bytes, expected) = (image_bytes(&image), reply_bytes(&image));
        let work = move |change: &mut Transaction<'_>, ns: &Namespace, limits: ReplyLimits| {
            images::create(change, ns, lease.as_deref(), &mut image, epoch.as_ref(), limits)
        };
        let created = move |labels| OwnEvent::ImageCreated { name, labels };
        self.change_image(call, bytes, expected, work, created).await
    }

    async fn update(&self, call: &CallContext, request: UpdateImageRequest) -> Result<Reply> {
        let image = image::from_request(request.image, "UpdateImageRequest")?;
        let namespace = call.namespace()?;
        let mask = request.update_mask.into_option().unwrap_or_default().paths;
        let (epoch, name) = (request.source_date_epoch, image.name.clone());
        let lease = call.lease();
        let bytes = image_bytes(&image) + decoded_size::strings(&mask);
        let expected = reply_bytes(&image) + self.record_bytes(&namespace, &name);
        let work = move |change: &mut Transaction<'_>, ns: &Namespace, limits: ReplyLimits| {
            let (lease, epoch) = (lease.as_deref(), epoch.as_ref());
            images::update(change, ns, lease, &image, &mask, epoch, limits)
        };
        let updated = move |labels| OwnEvent::ImageUpdated { name, labels };
        self.change_image(call, bytes, expected, work, updated).await
    }

    async fn delete(&self, call: &CallContext, request: DeleteImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let (ns, name, sync) = (namespace.clone(), request.name.clone(), request.sync);
        let bytes = decoded_size::decoded(&request, 0);
        let (lease, cause) = (call.lease(), call.cause());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            leases::release_image(change, &ns, lease.as_deref(), &request.name)?;
            images::delete(change, &ns, &request)
        };
        self.change(call.client, namespace, bytes, work, |()| {
            Some(OwnEvent::ImageDeleted { name })
        })
        .await?;
        if sync {
            self.collect().await?;
        }
        Ok(Reply::default())
    }
}
