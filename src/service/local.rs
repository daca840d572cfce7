//! Images over the local store.
//!
//! Here async code meets the synchronous store, and nowhere else. Writes go to the store's writer.
//! A Get runs where it is called: it is one look-up in mapped memory. So does a List that is found to
//! be a few look-ups. Any other runs on a pool, as it may read everything.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::budget::{Budget, Room};
use super::collector::{self, Trigger};
use super::events::{Exchange, Happened};
use super::images::{self, Built, Query, Written};
use super::patience::Patience;
use super::pool::{Pool, Speed};
use super::{Call, Images, Reply};
use crate::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use crate::model::{Error, Namespace, Result, image};
use crate::store::{Change, Store};

/// Images served from the local store.
#[derive(Debug, Clone)]
pub struct Local {
    store: Store,
    replies: Budget,
    pool: Pool,
    events: Exchange,
    collector: Arc<Trigger>,
}

impl Local {
    /// Serves `store`; its large replies share `replies`.
    pub fn new(store: Store, replies: Budget) -> Self {
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

    /// When it is time to collect what has expired.
    pub fn collector(&self) -> &Trigger {
        &self.collector
    }

    /// Removes what has expired, and tells of the images that went.
    pub async fn collect(&self) -> Result<()> {
        let events = self.events.clone();
        let told = move |gone: &Vec<(Namespace, String)>| {
            for (namespace, name) in gone {
                events.tell(namespace, Happened::ImageDeleted { name: name.clone() });
            }
        };
        self.store.writer().write_then(collector::collect, told).await.map(drop)
    }

    /// Makes a change in a namespace; after its commit, tells what `happened` by what it gave.
    pub async fn change<T, F, G>(&self, namespace: Namespace, work: F, happened: G) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) -> Option<Happened> + Send + 'static,
    {
        let (events, collector) = (self.events.clone(), Arc::clone(&self.collector));
        let then = move |made: &T| {
            collector.changed();
            if let Some(happened) = happened(made) {
                events.tell(&namespace, happened);
            }
        };
        self.store.writer().write_then(work, then).await
    }

    /// Answers with what `build` makes on the pool, in room that grows. When there is not enough to
    /// spare the answer is only measured; it gets its share of the budget, and is built again.
    /// `measured` is its size if that was found out already. What is built is not waited for any longer
    /// when the caller has gone.
    async fn answer<B>(&self, call: &Call, mut measured: Option<usize>, build: B) -> Result<Reply>
    where
        B: Fn(&Store, Room<'_>, Patience) -> Result<Built> + Send + Sync + 'static,
    {
        let (build, limit) = (Arc::new(build), call.reply_limit);
        let mut speed = Speed::Quick;
        loop {
            // Nothing is held while waiting: two who wait while holding might wait for each other.
            let hold = match measured {
                Some(size) if size > limit => return Err(Error::message_too_large(size, limit)),
                Some(size) => self.replies.share(size).await,
                None => None,
            };
            let (store, budget, build) =
                (self.store.clone(), self.replies.clone(), Arc::clone(&build));
            let work = move |patience| {
                let room = match measured {
                    Some(size) => Room::of(size, hold),
                    None => Room::growing(&budget, limit),
                };
                build(&store, room, patience)
            };
            match self.pool.run_at(speed, call.client, work).await? {
                None => speed = Speed::Slow,
                Some(Built { reply: Some(reply), .. }) => return Ok(reply),
                Some(built) => measured = Some(built.size),
            }
        }
    }

    fn room(&self, call: &Call) -> Room<'_> {
        Room::growing(&self.replies, call.reply_limit)
    }

    /// Where what may take long runs.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A message that exists already, with its share of the budget.
    pub async fn written(&self, message: Vec<u8>) -> Result<Reply> {
        let hold = self.replies.share(message.len()).await;
        Ok(Reply { message, hold })
    }
}

/// How long a List may take on the thread that has the request.
const INLINE_TIMEOUT: Duration = Duration::from_millis(5);

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
        let build = move |store: &Store, room: Room<'_>, _: Patience| {
            store.read(|s| images::get(s, &namespace, &request.name, room))
        };
        self.answer(call, Some(built.size), build).await
    }

    async fn list(&self, call: &Call, request: ListImagesRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let mut measured = None;
        if is_simple(&request.filters) {
            let (query, room) = (Query::new(&request.filters)?, self.room(call));
            // Few images and no regular expression, but maybe many labels of each.
            let (waiting, patience) = Patience::new(INLINE_TIMEOUT);
            match self.store.read(|s| images::list_few(s, &namespace, &query, room, patience)) {
                Ok(Some(Built { reply: Some(reply), .. })) => return Ok(reply),
                Ok(Some(built)) => measured = Some(built.size),
                Ok(None) => {}
                Err(_) if waiting.is_over() => {}
                Err(e) => return Err(e),
            }
        }
        // Read anew each time: what filters take, compiled, must not wait for room with them. And before
        // there is a snapshot, as compiling may take long.
        let build = move |store: &Store, room: Room<'_>, mut patience: Patience| {
            let query = Query::compile(&request.filters, &mut || patience.step())?;
            store.read(|s| images::list(s, &namespace, &query, room, patience))
        };
        self.answer(call, measured, build).await
    }

    async fn create(&self, call: &Call, request: CreateImageRequest) -> Result<Reply> {
        let image = image::from_request(request.image, "CreateImageRequest")?;
        let namespace = call.namespace()?;
        image::validate(&image)?;
        let (epoch, room, ns) = (request.source_date_epoch, call.reply_limit, namespace.clone());
        let name = image.name.clone();
        let work = move |change: &mut Change<'_>| {
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
        let name = image.name.clone();
        let work = move |change: &mut Change<'_>| {
            images::update(change, &ns, image.clone(), &mask, epoch.as_ref(), room)
        };
        let updated = |w: &Written| Some(Happened::ImageUpdated { name, labels: w.labels.clone() });
        self.written(self.change(namespace, work, updated).await?.answer).await
    }

    async fn delete(&self, call: &Call, request: DeleteImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let (ns, name, sync) = (namespace.clone(), request.name.clone(), request.sync);
        let work = move |change: &mut Change<'_>| images::delete(change, &ns, &request);
        self.change(namespace, work, |()| Some(Happened::ImageDeleted { name })).await?;
        if sync {
            self.collect().await?;
        }
        Ok(Reply::default())
    }
}
