//! Pages of images, and counts, in one snapshot.

use protobuf::well_known_types::field_mask::FieldMask;

use super::errors::{epoch_changed, log_off};
use super::etag::etag;
use super::mask::ReadMask;
use super::select::Selection;
use super::token::{RequestHash, Start, Token, page_size, request_hash};
use crate::api::catalog::{CountRequest, CountResponse, ListRequest, ListResponse, ListedImage};
use crate::limits::memory::ReplyBuffer;
use crate::log_throttle::throttled_log;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::{encode, push_field};
use crate::service::images;
use crate::service::reply::{BuildOutcome, ReplyBuilder};
use crate::store::{Entry, Records, Snapshot};

/// The images of a page, if the client does not say.
pub const DEFAULT_PAGE_SIZE: usize = 100;

/// The most images of a page.
pub const MAX_PAGE_SIZE: usize = 1000;

/// The bytes of a page after which it ends, unless it has only one image.
pub const MAX_PAGE_BYTES: usize = 1 << 20;

/// The most images that a page looks at. A filter that few images match has pages with few images, so
/// that no page takes long.
const MAX_PAGE_ROWS: usize = 50_000;

/// The most images that a page looks up by the index. With more, reading in order is cheaper, as each
/// page would look all of them up again.
const MAX_LOOKUPS: usize = 2048;

/// The bytes that the fields behind the images may take.
const TAIL_BYTES: usize = 2 << 10;

/// What all pages of a list have in common, and where this one begins.
#[derive(Debug)]
pub struct PageQuery {
    namespace: Namespace,
    filters: Vec<String>,
    without: Vec<String>,
    size: usize,
    mask: Option<ReadMask>,
    hash: RequestHash,
    from: Option<Token>,
}

/// A page, and where the next one begins.
#[derive(Debug)]
pub struct Page {
    /// The encoded `ListResponse`.
    pub built: BuildOutcome,
    /// None after the last page.
    pub next: Option<Token>,
}

impl PageQuery {
    /// Reads a request. `uuid` is that of the store.
    pub fn new(namespace: Namespace, request: ListRequest, uuid: &str) -> Result<Self> {
        let mask = ReadMask::parse(request.read_mask.as_ref() as Option<&FieldMask>)?;
        let size = page_size(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?;
        let (filters, without) = (request.filters, request.without);
        let hash = request_hash("List", &[&[namespace.to_string()], &filters, &without]);
        let from = match request.page_token.as_str() {
            "" => None,
            token => Some(Token::decode(token, uuid, &hash)?),
        };
        Ok(Self { namespace, filters, without, size, mask, hash, from })
    }

    /// Whether a page is read fast enough for the thread that has the request.
    pub fn is_simple(&self) -> bool {
        self.filters.is_empty() && self.without.is_empty() && self.size <= DEFAULT_PAGE_SIZE
    }

    /// Continues behind a page.
    pub fn go_on(&mut self, next: Token) {
        self.from = Some(next);
    }

    /// The selection of its filters.
    pub fn selection(&self, patience: &mut Cancel) -> Result<Selection> {
        Selection::compile(&self.filters, &self.without, &mut || patience.check())
    }

    /// Builds the page. `limit` is what the transport can carry.
    pub fn page(
        &self,
        snapshot: &Snapshot<'_>,
        selection: &Selection,
        uuid: &str,
        limit: usize,
        room: ReplyBuffer<'_>,
        patience: Cancel,
    ) -> Result<Page> {
        let now = Start::of(snapshot)?;
        let begun = self.from.as_ref().map_or(now, |token| token.start);
        if begun.epoch != now.epoch {
            let head = snapshot.log_head()?.ok_or_else(log_off)?;
            return Err(epoch_changed(&begun.epoch, &head));
        }
        let place = self.from.as_ref().map_or(&[][..], |token| &token.place);
        let reply = ReplyBuilder::new(room);
        let mut filling =
            Filling { page: self, selection, limit, reply, patience, count: 0, damaged: 0 };
        let last = match found(snapshot, &self.namespace, selection, &mut filling.patience)? {
            Some(mut found) => {
                found.sort_unstable_by_key(Entry::place);
                found.retain(|entry| entry.place() > place);
                filling.fill(snapshot, found.into_iter().map(Ok))?
            }
            None => {
                let names = selection.name_prefix();
                let all = snapshot.images_after(&self.namespace, names, place)?;
                filling.fill(snapshot, all)?
            }
        };
        let next = last.map(|place| Token { request: self.hash, start: begun, place });
        let tail = ListResponse {
            next_page_token: next.as_ref().map(|t| t.encode(uuid)).unwrap_or_default(),
            epoch: begun.epoch_text(),
            seq: begun.seq,
            damaged: filling.damaged,
            ..ListResponse::default()
        };
        filling.reply.add_fields(&encode(&tail)?);
        Ok(Page { built: filling.reply.built(), next })
    }
}

/// The images that may match, if few enough can be looked up.
fn found<'s>(
    snapshot: &'s Snapshot<'_>,
    namespace: &Namespace,
    selection: &Selection,
    patience: &mut Cancel,
) -> Result<Option<Vec<Entry<'s>>>> {
    match selection.lookups() {
        Some(query) => images::candidates(snapshot, namespace, query, MAX_LOOKUPS, patience),
        None => Ok(None),
    }
}

/// A page under construction.
struct Filling<'p, 'b> {
    page: &'p PageQuery,
    selection: &'p Selection,
    limit: usize,
    reply: ReplyBuilder<'b>,
    patience: Cancel,
    count: usize,
    damaged: u64,
}

impl Filling<'_, '_> {
    /// Adds images until the page is full. Gives the place of the last one that was looked at, if there are
    /// more.
    fn fill<'s>(
        &mut self,
        snapshot: &Snapshot<'_>,
        entries: impl Iterator<Item = Result<Entry<'s>>>,
    ) -> Result<Option<Vec<u8>>> {
        let mut last: Option<&[u8]> = None;
        for (number, entry) in entries.enumerate() {
            let entry = entry?;
            if self.count == self.page.size || number == MAX_PAGE_ROWS {
                return Ok(last.map(<[u8]>::to_vec));
            }
            match self.item(snapshot, &entry) {
                Ok(None) => {}
                Ok(Some(item)) => {
                    if !self.add(&entry, &item)? {
                        return Ok(last.map(<[u8]>::to_vec));
                    }
                }
                Err(Error::DataLoss(why)) => {
                    self.damaged += 1;
                    throttled_log!(
                        Error,
                        "left out of a page of namespace {}: {why}",
                        self.page.namespace
                    );
                }
                Err(e) => return Err(e),
            }
            last = Some(entry.place());
        }
        Ok(None)
    }

    /// The encoded `ListedImage`, if the image matches.
    fn item(&mut self, snapshot: &Snapshot<'_>, entry: &Entry<'_>) -> Result<Option<Vec<u8>>> {
        let patience = &mut self.patience;
        let mut step = || patience.check().and_then(|()| snapshot.check_held());
        step()?;
        let record = entry.message()?;
        if !self.selection.matches(record, &mut step)? {
            return Ok(None);
        }
        let masked = self.page.mask.map(|mask| mask.apply(record)).transpose()?;
        let image = masked.as_deref().unwrap_or(record);
        let etag = ListedImage { etag: etag(record), ..ListedImage::default() };
        let mut item = Vec::with_capacity(image.len() + 64);
        push_field(&mut item, 1, image);
        item.extend(encode(&etag)?);
        Ok(Some(item))
    }

    /// Adds an image if the page has room for it.
    fn add(&mut self, entry: &Entry<'_>, item: &[u8]) -> Result<bool> {
        let limit = self.limit.saturating_sub(TAIL_BYTES);
        let size = self.reply.size().saturating_add(item.len());
        if self.count > 0 && size > limit.min(MAX_PAGE_BYTES) {
            return Ok(false);
        }
        if size > limit {
            return Err(Error::ResourceExhausted(format!(
                "image {} has {} bytes, and a message of this connection carries {limit}: ask with a \
                 read_mask of the fields that you need",
                quote(entry.display_name()),
                item.len()
            )));
        }
        self.reply.add(item);
        self.count += 1;
        Ok(true)
    }
}

/// Counts the images that match. Without filters they are not read, and so may be damaged.
pub fn count(
    snapshot: &Snapshot<'_>,
    namespace: &Namespace,
    request: &CountRequest,
    mut patience: Cancel,
) -> Result<CountResponse> {
    let compiled =
        Selection::compile(&request.filters, &request.without, &mut || patience.check())?;
    let now = Start::of(snapshot)?;
    let mut response =
        CountResponse { epoch: now.epoch_text(), seq: now.seq, ..Default::default() };
    let most = images::max_lookups(snapshot)?;
    let few = match compiled.lookups() {
        Some(query) => images::candidates(snapshot, namespace, query, most, &mut patience)?,
        None => None,
    };
    let mut add = |entry: Entry<'_>| {
        let mut step = || patience.check().and_then(|()| snapshot.check_held());
        step()?;
        let matches = compiled.is_all()
            || match entry.message().and_then(|record| compiled.matches(record, &mut step)) {
                Err(Error::DataLoss(_)) => {
                    response.damaged += 1;
                    false
                }
                matches => matches?,
            };
        response.count += u64::from(matches);
        Ok(())
    };
    match few {
        Some(found) => found.into_iter().try_for_each(&mut add)?,
        None => snapshot
            .images_after(namespace, compiled.name_prefix(), &[])?
            .try_for_each(|entry| add(entry?))?,
    }
    Ok(response)
}
