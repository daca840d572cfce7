//! Images over the local store.
//!
//! Here async code meets the synchronous store, and nowhere else. Writes go to the store's writer.
//! A Get runs where it is called: it is one look-up in mapped memory. So does a List that is found to
//! be a few look-ups. Any other runs on a pool, as it may read everything.

use std::cell::Cell;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::budget::{Budget, Room};
use super::collector::{self, Collector};
use super::events::{Exchange, Happened};
use super::images::{self, Built, Query, Written};
use super::patience::Patience;
use super::{Call, Images, Reply, leases};
use crate::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use crate::model::{Error, Namespace, Result, image};
use crate::store::{Change, Snapshot, Store};

/// Images served from the local store.
#[derive(Debug, Clone)]
pub struct Local {
    store: Store,
    replies: Budget,
    lists: Arc<Semaphore>,
    events: Exchange,
    collector: Arc<Collector>,
}

impl Local {
    /// Serves `store`; its large replies share `replies`.
    pub fn new(store: Store, replies: Budget) -> Self {
        // More than the processors at once would only wait for each other, and hold snapshots.
        let lists = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            store,
            replies,
            lists: Arc::new(Semaphore::new(lists)),
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
        collector::run::collect(&self.collector, &self.store, &self.events).await
    }

    /// Makes a change in a namespace; after its commit, tells what `happened` by what it gave.
    pub async fn change<T, F, G>(&self, namespace: Namespace, mut work: F, happened: G) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) -> Option<Happened> + Send + 'static,
    {
        let (events, collector) = (self.events.clone(), Arc::clone(&self.collector));
        let (observer, place) = (Arc::clone(&self.collector), namespace.clone());
        let work = move |change: &mut Change<'_>| {
            let made = work(change)?;
            let happened = happened(&made);
            if let Some(happened) = &happened {
                observer.observe(&place, happened);
            }
            Ok((made, Cell::new(happened)))
        };
        let then = move |(_, happened): &(T, Cell<Option<Happened>>)| {
            collector.changed();
            if let Some(happened) = happened.take() {
                events.tell(&namespace, happened);
            }
        };
        self.store.writer().write_then(work, then).await.map(|(made, _)| made)
    }

    /// Answers with what `build` makes on the pool, in room that grows. When there is not enough to
    /// spare the answer is only measured; it gets its share of the budget, and is built again.
    /// `measured` is its size if that was found out already. What is built is not waited for any longer
    /// when the caller has gone.
    async fn answer<B>(&self, call: &Call, mut measured: Option<usize>, build: B) -> Result<Reply>
    where
        B: Fn(&Snapshot<'_>, Room<'_>, Patience) -> Result<Built> + Send + Sync + 'static,
    {
        let (build, limit) = (Arc::new(build), call.reply_limit);
        let (_waiting, patience) = Patience::new();
        loop {
            // Nothing is held while waiting: two who wait while holding might wait for each other.
            let hold = match measured {
                Some(size) if size > limit => return Err(Error::message_too_large(size, limit)),
                Some(size) => self.replies.share(size).await,
                None => None,
            };
            let (store, budget, build, patience) =
                (self.store.clone(), self.replies.clone(), Arc::clone(&build), patience.clone());
            let work = move || {
                let room = match measured {
                    Some(size) => Room::of(size, hold),
                    None => Room::growing(&budget, limit),
                };
                store.read(|s| build(s, room, patience))
            };
            let built = self.pooled(work).await?;
            match built.reply {
                Some(reply) => return Ok(reply),
                None => measured = Some(built.size),
            }
        }
    }

    fn room(&self, call: &Call) -> Room<'_> {
        Room::growing(&self.replies, call.reply_limit)
    }

    /// Runs what may take long on a thread for that, a few at a time.
    pub async fn pooled<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // The semaphore is never closed. The place is the work's, not the caller's: it goes on
        // though its client is gone.
        let turn = Arc::clone(&self.lists).acquire_owned().await.ok();
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("listing images: {e}"))))
    }

    /// A message that exists already, with its share of the budget.
    pub async fn written(&self, message: Vec<u8>) -> Result<Reply> {
        let hold = self.replies.share(message.len()).await;
        Ok(Reply { message, hold })
    }
}

/// Whether filters are read at once, where they are: short, and without regular expressions, whose
/// compilation may take as long as a walk.
fn is_simple(filters: &[String]) -> bool {
    const SHORT: usize = 1024;
    filters.iter().map(String::len).sum::<usize>() <= SHORT
        && !filters.iter().any(|filter| filter.contains('~'))
}

#[async_trait]
impl Images for Local {
    async fn get(&self, call: &Call, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let room = self.room(call);
        let built = self.store.read(|s| images::get(s, &namespace, &request.name, room))?;
        if let Some(reply) = built.reply {
            return Ok(reply);
        }
        let build = move |s: &Snapshot<'_>, room: Room<'_>, _: Patience| {
            images::get(s, &namespace, &request.name, room)
        };
        self.answer(call, Some(built.size), build).await
    }

    async fn list(&self, call: &Call, request: ListImagesRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let mut measured = None;
        if is_simple(&request.filters) {
            let (query, room) = (Query::new(&request.filters)?, self.room(call));
            let (_waiting, patience) = Patience::new();
            let few =
                self.store.read(|s| images::list_few(s, &namespace, &query, room, patience))?;
            match few {
                Some(Built { reply: Some(reply), .. }) => return Ok(reply),
                Some(built) => measured = Some(built.size),
                None => {}
            }
        }
        // Read anew each time: what filters take, compiled, must not wait for room with them.
        let build = move |s: &Snapshot<'_>, room: Room<'_>, patience: Patience| {
            images::list(s, &namespace, &Query::new(&request.filters)?, room, patience)
        };
        self.answer(call, measured, build).await
    }

    async fn create(&self, call: &Call, request: CreateImageRequest) -> Result<Reply> {
        let image = image::from_request(request.image, "CreateImageRequest")?;
        let namespace = call.namespace()?;
        image::validate(&image)?;
        let (epoch, room, ns) = (request.source_date_epoch, call.reply_limit, namespace.clone());
        let (name, lease) = (image.name.clone(), call.lease());
        let work = move |change: &mut Change<'_>| {
            leases::hold_image(change, &ns, lease.as_deref(), &image)?;
            images::create(change, &ns, image.clone(), epoch.as_ref(), room)
        };
        let created = |w: &Written| Some(Happened::ImageCreated { name, labels: w.labels.clone() });
        self.written(self.change(namespace, work, created).await?.answer).await
    }

    async fn update(&self, call: &Call, request: UpdateImageRequest) -> Result<Reply> {
        let image = image::from_request(request.image, "UpdateImageRequest")?;
        let namespace = call.namespace()?;
        let mask = request.update_mask.into_option().unwrap_or_default().paths;
        let (epoch, room, ns) = (request.source_date_epoch, call.reply_limit, namespace.clone());
        let (name, lease) = (image.name.clone(), call.lease());
        let work = move |change: &mut Change<'_>| {
            let image = images::updated(change, &ns, image.clone(), &mask)?;
            leases::hold_image(change, &ns, lease.as_deref(), &image)?;
            images::update(change, &ns, image, epoch.as_ref(), room)
        };
        let updated = |w: &Written| Some(Happened::ImageUpdated { name, labels: w.labels.clone() });
        self.written(self.change(namespace, work, updated).await?.answer).await
    }

    async fn delete(&self, call: &Call, request: DeleteImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let (ns, name, sync) = (namespace.clone(), request.name.clone(), request.sync);
        let lease = call.lease();
        let work = move |change: &mut Change<'_>| {
            leases::release_image(change, &ns, lease.as_deref(), &request.name)?;
            images::delete(change, &ns, &request)
        };
        self.change(namespace, work, |()| Some(Happened::ImageDeleted { name })).await?;
        if sync {
            self.collect().await?;
        }
        Ok(Reply::default())
    }
}
