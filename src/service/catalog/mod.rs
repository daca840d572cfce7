//! The service `lmdbimages.v1.Catalog`: pages, counts and batches of images, and the changes of the past.
//!
//! - [`list`]: pages and counts; [`select`]: the filters; [`mask`]: the fields; [`token`]: the position of a page;
//!   [`mod@etag`]: the version of an image
//! - [`batch`]: checks a batch; [`apply`]: batches and undo on the local store
//! - [`watch`], [`initial`]: new changes, as they are made; [`history`]: past changes; [`undo`]
//! - [`entry`]: changes in the form of the log; [`change_filter`]: the changes that a client wants
//! - [`errors`]: the errors that programs handle
//!
//! All reads use the local store, in front of a containerd too, so that a page and the log describe the same
//! state. A first page and a count are read after the store has caught up with containerd.

pub(crate) mod apply;
pub mod batch;
pub(crate) mod change_filter;
pub(crate) mod entry;
pub(crate) mod errors;
pub(crate) mod etag;
pub(crate) mod history;
pub(crate) mod initial;
pub(crate) mod list;
pub(crate) mod mask;
pub(crate) mod select;
pub mod token;
pub(crate) mod undo;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::api::catalog::{
    ApplyRequest, ChangesRequest, ChangesResponse, CountRequest, HeadRequest, HeadResponse,
    HistoryRequest, ListRequest, UndoRequest, UndoResponse, WatchRequest,
};
use crate::limits::client::Client;
use crate::limits::memory::{MemoryBudget, ReplyBuffer};
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::encode;
use crate::service::local::{INLINE_TIMEOUT, LocalImages};
use crate::service::{CallContext, Reply};
use crate::store::{Kind, Records, Snapshot, Store};
use apply::CatalogWriter;
use batch::{Applied, Batch};
use change_filter::ChangeFilter;
use errors::{check_position, log_off};
use history::HistoryQuery;
use list::{Page, PageQuery};
use token::PageToken;
use undo::Restored;
use watch::{Watch, large_messages_budget, read_changes};

/// The bytes of changes that Changes returns, if the client does not say.
const DEFAULT_CHANGES_BYTES: u32 = 256 << 10;

/// The most bytes of changes that Changes returns, unless one change has more.
const MAX_CHANGES_BYTES: u32 = 1 << 20;

/// The longest wait of Changes.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The catalogue of a store. Clones share their state.
#[derive(Clone)]
pub struct Catalog {
    local: LocalImages,
    writer: Arc<dyn CatalogWriter>,
    /// The budget of the large messages of watches.
    large: MemoryBudget,
}

impl Catalog {
    /// A catalogue that reads `local`, and changes images through `writer`.
    pub fn new(local: LocalImages, writer: Arc<dyn CatalogWriter>) -> Self {
        Self { local, writer, large: large_messages_budget() }
    }

    /// The identity of the store and the ends of its log. Answers a `HeadResponse`.
    pub async fn head(&self, _: &CallContext, _: HeadRequest) -> Result<Reply> {
        let store = self.local.store();
        let head = store.log_head();
        let message = encode(&HeadResponse {
            store: store.uuid().to_owned(),
            epoch: head.map(|head| head.epoch.to_string()).unwrap_or_default(),
            first: head.map_or(0, |head| head.first),
            last: head.map_or(0, |head| head.last),
            chain: head.map_or(0, |head| head.chain),
            ..HeadResponse::default()
        })?;
        Ok(Reply { message, reservation: None })
    }

    /// Begins a watch.
    pub fn watch(&self, client: Client, request: WatchRequest) -> Result<Watch> {
        Watch::begin(&self.local, &self.large, client, request)
    }

    /// Changes from a number on. Waits for the first one, as long as the request says. Answers a `ChangesResponse`.
    pub async fn changes(&self, call: &CallContext, request: ChangesRequest) -> Result<Reply> {
        let until = Instant::now() + wait(&request)?;
        let filter = Arc::new(ChangeFilter::new(request.namespaces, request.filters)?);
        let mut news = self.local.store().watch_log();
        let head = (*news.borrow_and_update()).ok_or_else(log_off)?;
        if request.from == 0 {
            return Err(Error::invalid_argument(
                "ChangesRequest.from must be at least 1: Head says which changes there are",
            ));
        }
        check_position(&request.epoch, request.from, &head)?;
        let max_bytes = match request.max_bytes {
            0 => DEFAULT_CHANGES_BYTES,
            wanted => wanted.min(MAX_CHANGES_BYTES),
        };
        let mut next = request.from;
        loop {
            let read = read_changes(
                &self.local,
                call.client,
                head.epoch,
                next,
                max_bytes as usize,
                &filter,
            );
            let batch = read.await?;
            next = batch.next;
            let is_behind = next <= batch.head.last;
            let is_over = Instant::now() >= until;
            if !batch.changes.is_empty() || is_over {
                return self.changes_response(call, batch, next).await;
            }
            if !is_behind {
                match timeout_at(until, news.changed()).await {
                    Ok(changed) => changed.map_err(|_| Error::shutting_down())?,
                    Err(_) => return self.changes_response(call, batch, next).await,
                }
            }
        }
    }

    async fn changes_response(
        &self,
        call: &CallContext,
        batch: watch::Batch,
        next: u64,
    ) -> Result<Reply> {
        let tail = ChangesResponse {
            epoch: batch.head.epoch.to_string(),
            next,
            first: batch.head.first,
            last: batch.head.last,
            ..ChangesResponse::default()
        };
        let mut message = batch.changes;
        message.extend(encode(&tail)?);
        self.sized_reply(call, message).await
    }

    /// The changes of a name or a digest. Answers a `HistoryResponse`.
    pub async fn history(&self, call: &CallContext, request: HistoryRequest) -> Result<Reply> {
        let store = self.local.store().clone();
        let query = HistoryQuery::new(request, store.uuid())?;
        let read = move |mut cancel: Cancel| {
            store.read(|snapshot| query.page(snapshot, store.uuid(), &mut cancel))
        };
        let found = self.local.pool().run(call.client, read).await?;
        self.sized_reply(call, encode(&found)?).await
    }

    /// Undoes a change. Answers an `UndoResponse`.
    pub async fn undo(&self, call: &CallContext, request: UndoRequest) -> Result<Reply> {
        let (store, namespace) = (self.local.store().clone(), call.namespace());
        let (force, is_dry) = (request.force, request.dry_run);
        let plan = move |mut cancel: Cancel| {
            store.read(|snapshot| {
                let mut restore = undo::plan(snapshot, &request, &namespace, &mut cancel)?;
                if force {
                    restore.expected = None;
                }
                let stored = snapshot.record(&restore.namespace, Kind::Image, &restore.name)?;
                undo::check_unchanged(&restore, stored)?;
                let preview = restore.preview(stored)?;
                Ok((restore, preview))
            })
        };
        let (restore, preview) = self.local.pool().run(call.client, plan).await?;
        let change = if is_dry || preview.is_none() {
            preview
        } else {
            match self.writer.restore(call, restore).await? {
                Restored::Unchanged => None,
                Restored::Changed(0) => preview,
                Restored::Changed(seq) => {
                    let made = self.local.store().read(|snapshot| entry::entry(snapshot, seq));
                    // The change was made, even if its entry cannot be read.
                    Some(made.unwrap_or_else(|_| preview.unwrap_or_default()))
                }
            }
        };
        let response = UndoResponse { change: change.into(), ..UndoResponse::default() };
        self.sized_reply(call, encode(&response)?).await
    }

    /// A page of images. Answers a `ListResponse`.
    pub async fn list(&self, call: &CallContext, request: ListRequest) -> Result<Reply> {
        let query = PageQuery::new(call.namespace()?, request, self.local.store().uuid())?;
        self.page(call, &Arc::new(query)).await.map(|(reply, _)| reply)
    }

    /// The pages of a list, from the page of the request's token on.
    pub(crate) fn stream_list(&self, call: CallContext, request: ListRequest) -> Result<Pages> {
        let query = PageQuery::new(call.namespace()?, request, self.local.store().uuid())?;
        Ok(Pages { catalog: self.clone(), call, query: Some(query) })
    }

    async fn page(
        &self,
        call: &CallContext,
        query: &Arc<PageQuery>,
    ) -> Result<(Reply, Option<PageToken>)> {
        if let Some(namespace) = query.begins() {
            self.writer.catch_up(call.client, namespace).await?;
        }
        let (store, limit) = (self.local.store(), call.reply_limit);
        let mut measured = None;
        if query.is_simple() {
            let (waiting, mut cancel) = Cancel::new(INLINE_TIMEOUT, 0);
            let selection = query.selection(&mut cancel)?;
            let buffer = self.local.reply_buffer(call);
            let read =
                |s: &Snapshot<'_>| query.page(s, &selection, store.uuid(), limit, buffer, cancel);
            match store.read(read) {
                Ok(Page { built, next }) => match built.reply {
                    Some(reply) => return Ok((reply, next)),
                    None => measured = Some(built.size),
                },
                Err(_) if waiting.is_over() => {}
                Err(e) => return Err(e),
            }
        }
        let next = Arc::new(Mutex::new(None));
        let (query, kept) = (Arc::clone(query), Arc::clone(&next));
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, mut cancel: Cancel| {
            let selection = query.selection(&mut cancel)?;
            let page = store.read(|snapshot| {
                query.page(snapshot, &selection, store.uuid(), limit, buffer, cancel)
            })?;
            *kept.lock() = page.next;
            Ok(page.built)
        };
        let reply = self.local.build_reply(call, measured, build).await?;
        let next = next.lock().take();
        Ok((reply, next))
    }

    /// The number of images that match. Answers a `CountResponse`.
    pub async fn count(&self, call: &CallContext, request: CountRequest) -> Result<Reply> {
        let (namespace, store) = (call.namespace()?, self.local.store().clone());
        self.writer.catch_up(call.client, &namespace).await?;
        let count = move |cancel: Cancel| {
            store.read(|snapshot| list::count(snapshot, &namespace, &request, cancel))
        };
        let found = self.local.pool().run(call.client, count).await?;
        Ok(Reply { message: encode(&found)?, reservation: None })
    }

    /// Applies a batch. Returns the result of each item.
    pub async fn apply(
        &self,
        call: &CallContext,
        request: ApplyRequest,
    ) -> Result<Vec<Result<Applied>>> {
        let namespace = call.namespace()?;
        let batch = Batch::new(request)?;
        self.writer.apply(call, namespace, batch).await
    }

    /// The reply of a message, with a reservation of the budget. An error if the transport cannot carry it.
    pub(crate) async fn sized_reply(&self, call: &CallContext, message: Vec<u8>) -> Result<Reply> {
        if message.len() > call.reply_limit {
            return Err(Error::message_too_large(message.len(), call.reply_limit));
        }
        self.local.reserve_reply(call.client, message).await
    }
}

/// The pages of a list, one after the other. Each page has its own snapshot, and no snapshot is held between them.
pub struct Pages {
    catalog: Catalog,
    call: CallContext,
    /// The query of the next page; `None` after the last.
    query: Option<PageQuery>,
}

impl Pages {
    /// The next page, an encoded `ListResponse`; none after the last.
    pub async fn next(&mut self) -> Result<Option<Reply>> {
        let Some(query) = self.query.take() else { return Ok(None) };
        let query = Arc::new(query);
        let (reply, next) = self.catalog.page(&self.call, &query).await?;
        if let Some(next) = next {
            // The work on the pool has ended, and has dropped its share.
            self.query = Arc::into_inner(query).map(|mut query| {
                query.continue_from(next);
                query
            });
            if self.query.is_none() {
                return Err(Error::Internal("a page is still being read".into()));
            }
        }
        Ok(Some(reply))
    }
}

/// The time that a Changes waits for its first change.
fn wait(request: &ChangesRequest) -> Result<Duration> {
    let Some(wait) = request.wait.as_ref() else { return Ok(Duration::ZERO) };
    let seconds = u64::try_from(wait.seconds);
    match (seconds, u32::try_from(wait.nanos)) {
        (Ok(seconds), Ok(nanos)) => {
            Ok(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())))
        }
        _ => Err(Error::invalid_argument("ChangesRequest.wait is negative")),
    }
    .map(|wait| wait.min(MAX_WAIT))
}
