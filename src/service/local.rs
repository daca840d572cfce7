//! Images over the local store.
//!
//! Here async code meets the synchronous store, and nowhere else. Writes go to the store's writer.
//! A Get runs where it is called: it is one look-up in mapped memory. So does a List that is found to
//! be a few look-ups. Any other runs on a pool, as it may read everything.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::events::{Exchange, OwnEvent};
use super::images::{self, Made, Query, ReplyRoom, Stored};
use super::pool::{Pool, Speed};
use super::reply::BuildOutcome;
use super::{CallContext, Images, Reply, leases};
use crate::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use crate::limits::decoded_size;
use crate::limits::memory::{MemoryBudget, ReplyBuffer, Reservation, SMALL};
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

    /// Where its events are told.
    pub fn events(&self) -> &Exchange {
        &self.events
    }

    /// What removes what has expired.
    pub fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// Removes what has expired, and tells of the images that went.
    pub async fn collect(&self) -> Result<()> {
        gc::run::collect(&self.collector, &self.store, &self.events).await
    }

    /// Makes a change in a namespace; after its commit, tells what `happened` by what it gave. `bytes` is
    /// what the change takes in memory until it is made: it holds as much of the budget, as it is made
    /// though its client leaves.
    pub async fn change<T, F, G>(
        &self,
        namespace: Namespace,
        bytes: usize,
        work: F,
        happened: G,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) -> Option<OwnEvent> + Send + 'static,
    {
        let events = self.events.clone();
        let (collector, place) = (Arc::clone(&self.collector), namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            let made = work(change)?;
            let happened = happened(&made);
            if let Some(happened) = &happened {
                collector.observe(&place, happened);
            }
            Ok((made, Cell::new(happened)))
        };
        let told = move |(_, happened): &(T, Cell<Option<OwnEvent>>)| {
            if let Some(happened) = happened.take() {
                events.emit(&namespace, happened);
            }
        };
        self.change_then(bytes, work, told).await.map(|((made, _), _)| made)
    }

    /// Makes a change that holds `bytes` of the budget; after its commit, `then` with what it gave. Gives
    /// that, and the hold.
    pub async fn change_then<T, F, G>(
        &self,
        bytes: usize,
        work: F,
        then: G,
    ) -> Result<(T, Option<Reservation>)>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) + Send + 'static,
    {
        let hold = self.replies.reserve(bytes).await;
        let collector = Arc::clone(&self.collector);
        let work = move |change: &mut Transaction<'_>| work(change).map(|made| (made, hold));
        let then = move |(made, _): &(T, Option<Reservation>)| {
            collector.record_change();
            then(made);
        };
        self.store.writer().write_then(work, then).await
    }

    /// Makes a change of an image, which takes `bytes` of memory, and whose reply carries the image. What
    /// the reply takes of the budget is held before the change is made: `expected` bytes, and if that is
    /// too little, what it takes.
    async fn change_image<F, G>(
        &self,
        call: &CallContext,
        bytes: usize,
        expected: usize,
        work: F,
        happened: G,
    ) -> Result<Reply>
    where
        F: Fn(&mut Transaction<'_>, &Namespace, ReplyRoom) -> Result<Made> + Send + Sync + 'static,
        G: Fn(&Stored) -> OwnEvent + Send + Sync + 'static,
    {
        let (namespace, limit, cause) = (call.namespace()?, call.reply_limit, call.cause());
        let (work, happened) = (Arc::new(work), Arc::new(happened));
        let mut size = expected.min(limit);
        loop {
            let room = ReplyRoom { limit, held: size.max(SMALL) };
            let (work, happened, observed) =
                (Arc::clone(&work), Arc::clone(&happened), Arc::clone(&happened));
            let (ns, events) = (namespace.clone(), self.events.clone());
            let told = move |made: &Made| {
                if let Made::Written(written) = made {
                    events.emit(&ns, happened(written));
                }
            };
            let (ns, collector) = (namespace.clone(), Arc::clone(&self.collector));
            let cause = cause.clone();
            let work = move |change: &mut Transaction<'_>| {
                change.set_cause(cause);
                let made = work(change, &ns, room)?;
                if let Made::Written(written) = &made {
                    collector.observe(&ns, &observed(written));
                }
                Ok(made)
            };
            // Nothing is held while waiting, as in `answer`.
            match self.change_then(bytes.saturating_add(size), work, told).await? {
                (Made::Written(Stored { answer: message, .. }), mut hold) => {
                    if let Some(hold) = &mut hold {
                        hold.shrink(message.len());
                    }
                    return Ok(Reply { message, hold });
                }
                (Made::Needs(bytes), _) => size = bytes,
            }
        }
    }

    /// How many bytes the record of an image has; none when there is none, or it cannot be read: the next
    /// read says why.
    pub fn record_bytes(&self, namespace: &Namespace, name: &str) -> usize {
        let bytes = |s: &Snapshot<'_>| Ok(s.record(namespace, Kind::Image, name)?.map(<[u8]>::len));
        self.store.read(bytes).ok().flatten().unwrap_or(0)
    }

    /// Answers with what `build` makes on the pool, in room that grows. When there is not enough to
    /// spare the answer is only measured; it gets its share of the budget, and is built again.
    /// `measured` is its size if that was found out already. What is built is not waited for any longer
    /// when the caller has gone.
    pub async fn build_reply<B>(
        &self,
        call: &CallContext,
        mut measured: Option<usize>,
        build: B,
    ) -> Result<Reply>
    where
        B: Fn(&Store, ReplyBuffer<'_>, Cancel) -> Result<BuildOutcome> + Send + Sync + 'static,
    {
        let (build, limit) = (Arc::new(build), call.reply_limit);
        let mut speed = Speed::Quick;
        loop {
            // Nothing is held while waiting: two who wait while holding might wait for each other.
            let hold = match measured {
                Some(size) if size > limit => return Err(Error::message_too_large(size, limit)),
                Some(size) => self.replies.reserve(size).await,
                None => None,
            };
            let (store, budget, build) =
                (self.store.clone(), self.replies.clone(), Arc::clone(&build));
            let work = move |patience| {
                let room = match measured {
                    Some(size) => ReplyBuffer::fixed(size, hold),
                    None => ReplyBuffer::elastic(&budget, limit),
                };
                build(&store, room, patience)
            };
            match self.pool.run_at(speed, call.client, work).await? {
                None => speed = Speed::Slow,
                Some(BuildOutcome { reply: Some(reply), .. }) => return Ok(reply),
                Some(built) => measured = Some(built.size),
            }
        }
    }

    /// As `list`, from a snapshot that `accepts` accepts; nothing if it does not. `accepts` gets no
    /// [`Cancel`] where it must answer at once. There it may say no, and is asked again where it has one.
    ///
    /// # Errors
    /// Those of a List, and of `accepts`.
    pub async fn list_if<F>(
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
            let (query, room) = (Query::new(&request.filters)?, self.room(call));
            // Few images and no regular expression, but maybe many labels of each.
            let (waiting, patience) = Cancel::new(INLINE_TIMEOUT);
            let list = |s: &Snapshot<'_>| match accepts(s, None)? {
                true => images::list_if_few(s, &namespace, &query, room, patience),
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
        // Read anew each time: what filters take, compiled, must not wait for room with them. And before
        // there is a snapshot, as compiling may take long.
        let build = move |store: &Store, room: ReplyBuffer<'_>, mut patience: Cancel| {
            let query = Query::compile(&request.filters, &mut || patience.check())?;
            store.read(|s| {
                if !accepts(s, Some(&mut patience))? {
                    refused.store(true, Ordering::Relaxed);
                    return Err(Error::Unavailable("the snapshot is refused".into()));
                }
                images::list(s, &namespace, &query, room, patience)
            })
        };
        match self.build_reply(call, measured, build).await {
            Err(_) if is_refused.load(Ordering::Relaxed) => Ok(None),
            listed => listed.map(Some),
        }
    }

    /// Room for a reply of the call.
    pub fn room(&self, call: &CallContext) -> ReplyBuffer<'_> {
        ReplyBuffer::elastic(&self.replies, call.reply_limit)
    }

    /// Where what may take long runs.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for a share of what large replies, and changes under way, take together.
    pub async fn share(&self, bytes: usize) -> Option<Reservation> {
        self.replies.reserve(bytes).await
    }

    /// A message that exists already, with its share of the budget.
    pub async fn reserve_reply(&self, message: Vec<u8>) -> Result<Reply> {
        let hold = self.replies.reserve(message.len()).await;
        Ok(Reply { message, hold })
    }
}

/// How long a List may take on the thread that has the request.
pub const INLINE_TIMEOUT: Duration = Duration::from_millis(5);

/// Whether filters are read at once, where they are: short, and without regular expressions, whose
/// compilation may take as long as a walk.
pub fn is_simple(filters: &[String]) -> bool {
    const SHORT: usize = 1024;
    filters.iter().map(String::len).sum::<usize>() <= SHORT
        && !filters.iter().any(|filter| filter.contains('~'))
}

/// About how many bytes the reply has that carries this image: the times and the heads are still to come.
pub fn reply_bytes(image: &Image) -> usize {
    const TIMES_AND_HEADS: usize = 64;
    decoded_size::decoded(image, 0).saturating_add(TIMES_AND_HEADS)
}

/// How much memory an image takes.
pub fn image_bytes(image: &Image) -> usize {
    decoded_size::decoded(image, image.labels.len() + image.target.annotations.len())
}

#[async_trait]
impl Images for LocalImages {
    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let room = self.room(call);
        let built = self.store.read(|s| images::get(s, &namespace, &request.name, room))?;
        if let Some(reply) = built.reply {
            return Ok(reply);
        }
        let build = move |store: &Store, room: ReplyBuffer<'_>, _: Cancel| {
            store.read(|s| images::get(s, &namespace, &request.name, room))
        };
        self.build_reply(call, Some(built.size), build).await
    }

    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply> {
        let listed = self.list_if(call, request, |_, _| Ok(true)).await?;
        listed.ok_or_else(|| Error::Internal("a list that is always made was not made".into()))
    }

    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply> {
        let image = image::from_request(request.image, "CreateImageRequest")?;
        call.namespace()?;
        image::validate(&image)?;
        let (epoch, name) = (request.source_date_epoch, image.name.clone());
        let lease = call.lease();
        let (bytes, expected) = (image_bytes(&image), reply_bytes(&image));
        let work = move |change: &mut Transaction<'_>, ns: &Namespace, room: ReplyRoom| {
            images::create(change, ns, lease.as_deref(), image.clone(), epoch.as_ref(), room)
        };
        let created = move |w: &Stored| OwnEvent::ImageCreated {
            name: name.clone(),
            labels: w.labels.clone(),
        };
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
        let work = move |change: &mut Transaction<'_>, ns: &Namespace, room: ReplyRoom| {
            let (lease, epoch) = (lease.as_deref(), epoch.as_ref());
            images::update(change, ns, lease, image.clone(), &mask, epoch, room)
        };
        let updated = move |w: &Stored| OwnEvent::ImageUpdated {
            name: name.clone(),
            labels: w.labels.clone(),
        };
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
        self.change(namespace, bytes, work, |()| Some(OwnEvent::ImageDeleted { name })).await?;
        if sync {
            self.collect().await?;
        }
        Ok(Reply::default())
    }
}
