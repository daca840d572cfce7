//! Pages of images, and counts, in one snapshot.

use go_compat::quote::quote;
use protobuf::well_known_types::field_mask::FieldMask;

use super::errors::{epoch_changed, log_off};
use super::etag::etag;
use super::mask::ReadMask;
use super::select::Selection;
use super::token::{PageToken, RequestHash, Start, page_size, request_hash};
use crate::api::catalog::{CountRequest, CountResponse, ListRequest, ListResponse, ListedImage};
use crate::limits::memory::ReplyBuffer;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::{encode, push_field};
use crate::service::images::query::{candidates, max_lookups};
use crate::service::reply::{BuildOutcome, ReplyBuilder};
use crate::store::{RecordRef, Records, Snapshot};

/// The images of a page, if the client sets no page size.
pub(crate) const DEFAULT_PAGE_SIZE: usize = 100;

/// The most images of a page.
pub(crate) const MAX_PAGE_SIZE: usize = 1000;

/// The bytes of a page after which it ends, unless it has only one image.
pub(crate) const MAX_PAGE_BYTES: usize = 1 << 20;

/// The most images that one page examines. With a filter that few images match, pages have few images, so that no
/// page takes long.
const MAX_PAGE_ROWS: usize = 50_000;

/// The most images that a page looks up by the index. With more, reading in order is cheaper, as each
/// page would look all of them up again.
const MAX_LOOKUPS: usize = 2048;

/// The bytes that the fields behind the images may take.
const TAIL_BYTES: usize = 2 << 10;

/// The request of a list, and the position where this page begins.
#[derive(Debug)]
pub(crate) struct PageQuery {
    namespace: Namespace,
    filters: Vec<String>,
    without: Vec<String>,
    size: usize,
    mask: Option<ReadMask>,
    hash: RequestHash,
    from: Option<PageToken>,
}

/// A page, and the token of the next one.
#[derive(Debug)]
pub(crate) struct Page {
    /// The encoded `ListResponse`.
    pub(crate) built: BuildOutcome,
    /// The token of the next page; `None` after the last.
    pub(crate) next: Option<PageToken>,
}

impl PageQuery {
    /// Parses a request. `uuid` is the UUID of the store.
    pub(crate) fn new(namespace: Namespace, request: ListRequest, uuid: &str) -> Result<Self> {
        let mask = ReadMask::parse(request.read_mask.as_ref() as Option<&FieldMask>)?;
        let size = page_size(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?;
        let (filters, without) = (request.filters, request.without);
        let hash = request_hash("List", &[&[namespace.to_string()], &filters, &without]);
        let from = match request.page_token.as_str() {
            "" => None,
            token => Some(PageToken::decode(token, uuid, &hash)?),
        };
        Ok(Self { namespace, filters, without, size, mask, hash, from })
    }

    /// Whether a page is read fast enough for the thread that has the request.
    pub(crate) fn is_simple(&self) -> bool {
        self.filters.is_empty() && self.without.is_empty() && self.size <= DEFAULT_PAGE_SIZE
    }

    /// The namespace, if this is the first page.
    pub(crate) fn begins(&self) -> Option<&Namespace> {
        self.from.is_none().then_some(&self.namespace)
    }

    /// Continues behind the page that returned this token.
    pub(crate) fn continue_from(&mut self, next: PageToken) {
        self.from = Some(next);
    }

    /// The selection of its filters.
    pub(crate) fn selection(&self, cancel: &mut Cancel) -> Result<Selection> {
        Selection::compile(&self.filters, &self.without, cancel)
    }

    /// Builds the page. `limit` is the longest message of the transport, in bytes.
    pub(crate) fn page(
        &self,
        snapshot: &Snapshot<'_>,
        selection: &Selection,
        uuid: &str,
        limit: usize,
        buffer: ReplyBuffer<'_>,
        cancel: Cancel,
    ) -> Result<Page> {
        let now = Start::at(snapshot)?;
        let begun = self.from.as_ref().map_or(now, |token| token.start);
        if begun.epoch != now.epoch {
            let head = snapshot.log_head()?.ok_or_else(log_off)?;
            return Err(epoch_changed(&begun.epoch, &head));
        }
        let position = self.from.as_ref().map_or(&[][..], |token| &token.position);
        let reply = ReplyBuilder::new(buffer);
        let mut builder =
            PageBuilder { page: self, selection, limit, reply, cancel, count: 0, damaged: 0 };
        let last = match find_candidates(snapshot, &self.namespace, selection, &mut builder.cancel)?
        {
            Some(mut found) => {
                found.sort_unstable_by_key(RecordRef::position);
                found.retain(|entry| entry.position() > position);
                builder.fill(snapshot, found.into_iter().map(Ok))?
            }
            None => {
                let names = selection.name_prefix();
                let all = snapshot.images_after(&self.namespace, names, position)?;
                builder.fill(snapshot, all)?
            }
        };
        let next = last.map(|position| PageToken { request: self.hash, start: begun, position });
        let tail = ListResponse {
            next_page_token: next.as_ref().map(|t| t.encode(uuid)).unwrap_or_default(),
            epoch: begun.epoch_text(),
            seq: begun.seq,
            damaged: builder.damaged,
            ..ListResponse::default()
        };
        builder.reply.add_fields(&encode(&tail)?);
        Ok(Page { built: builder.reply.built(), next })
    }
}

/// The candidates by the index; `None` if they are too many, or if the filters have no lookups.
fn find_candidates<'s>(
    snapshot: &'s Snapshot<'_>,
    namespace: &Namespace,
    selection: &Selection,
    cancel: &mut Cancel,
) -> Result<Option<Vec<RecordRef<'s>>>> {
    match selection.lookups() {
        Some(query) => candidates(snapshot, namespace, query, MAX_LOOKUPS, cancel),
        None => Ok(None),
    }
}

/// A page under construction.
struct PageBuilder<'p, 'b> {
    page: &'p PageQuery,
    selection: &'p Selection,
    limit: usize,
    reply: ReplyBuilder<'b>,
    cancel: Cancel,
    count: usize,
    damaged: u64,
}

impl PageBuilder<'_, '_> {
    /// Adds images until the page is full. Returns the position of the last examined image, if there are more.
    fn fill<'s>(
        &mut self,
        snapshot: &Snapshot<'_>,
        entries: impl Iterator<Item = Result<RecordRef<'s>>>,
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
            last = Some(entry.position());
        }
        Ok(None)
    }

    /// The encoded `ListedImage`, if the image matches.
    fn item(&mut self, snapshot: &Snapshot<'_>, entry: &RecordRef<'_>) -> Result<Option<Vec<u8>>> {
        let cancel = &mut self.cancel;
        let mut step = || cancel.check().and_then(|()| snapshot.check_held());
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
    fn add(&mut self, entry: &RecordRef<'_>, item: &[u8]) -> Result<bool> {
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

/// Counts the images that match. Without filters it does not read the records, so it counts damaged ones too.
pub(crate) fn count(
    snapshot: &Snapshot<'_>,
    namespace: &Namespace,
    request: &CountRequest,
    mut cancel: Cancel,
) -> Result<CountResponse> {
    let compiled = Selection::compile(&request.filters, &request.without, &mut cancel)?;
    let now = Start::at(snapshot)?;
    let mut response =
        CountResponse { epoch: now.epoch_text(), seq: now.seq, ..Default::default() };
    if compiled.is_all()
        && let Some(count) = snapshot.count_images(namespace)?
    {
        response.count = count;
        return Ok(response);
    }
    let limit = max_lookups(snapshot)?;
    let few = match compiled.lookups() {
        Some(query) => candidates(snapshot, namespace, query, limit, &mut cancel)?,
        None => None,
    };
    let mut add = |entry: RecordRef<'_>| {
        let mut step = || cancel.check().and_then(|()| snapshot.check_held());
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
