//! The operations of Images inside a transaction, with the semantics of containerd 2.3
//! (`core/metadata/images.go`, `plugins/services/images`).
//!
//! A stored record is the encoded image, so every reply is built as bytes around it, without decoding.

use protobuf::well_known_types::timestamp::Timestamp;

use super::events::Labels;
use super::reply::{BuildOutcome, ReplyBuilder};
use super::{leases, namespaces};
use crate::api::images::DeleteImageRequest;
use crate::clock;
use crate::limits::memory::ReplyBuffer;
use crate::log_throttle::{shorten, throttled_log};
use crate::model::filter::Filter;
use crate::model::go::quote::quote;
use crate::model::image::encoded::Encoded;
use crate::model::image::plan::{Lookup, Plan};
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec;
use crate::service::codec::decode;
use crate::service::gc;
use crate::store::{Entry, Kind, Records, Transaction};

/// The filters of a List and their plan.
#[derive(Debug)]
pub struct Query {
    filter: Filter,
    plan: Plan,
}

/// The outcome of a change of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// The change was made.
    Written(Stored),
    /// Nothing was changed: the reply takes this number of bytes, and the caller must reserve them first.
    Needs(usize),
}

/// The result of a change.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The encoded response, with the image as it is now.
    pub answer: Vec<u8>,
    /// The image's labels as they are now.
    pub labels: Labels,
}

/// The bounds on the reply of a change, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct ReplyRoom {
    /// The largest reply of the transport: the change is refused beyond it.
    pub limit: usize,
    /// The bytes that are reserved, or need no reservation.
    pub held: usize,
}

/// The most bytes of a record: a gRPC reply with its prefix of five bytes carries no more. A Get over
/// ttrpc, whose frames are smaller, refuses a larger record and names its size.
pub const MAX_RECORD_BYTES: usize = (16 << 20) - 5;

/// Builds the `GetImageResponse` for an image, if there is room for it.
pub fn get(
    records: &impl Records,
    namespace: &Namespace,
    name: &str,
    room: ReplyBuffer<'_>,
) -> Result<BuildOutcome> {
    let image = records.record(namespace, Kind::Image, name)?.ok_or_else(|| not_found(name))?;
    let mut reply = ReplyBuilder::new(room);
    reply.add(image);
    Ok(reply.built())
}

impl Query {
    /// Parses and plans filters.
    pub fn new(filters: &[String]) -> Result<Self> {
        Self::compile(filters, &mut || Ok(()))
    }

    /// Parses and plans filters that may take long. Calls `step` now and then and ends with its error.
    pub fn compile(filters: &[String], step: &mut impl FnMut() -> Result<()>) -> Result<Self> {
        // containerd repeats the sentence: where it parses filters, and where it lists images.
        let mut filter = Filter::parse(filters)
            .map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))?;
        filter.compile(step)?;
        let plan = Plan::new(&filter);
        Ok(Self { filter, plan })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan for a line of the log.
    fn shown_plan(&self) -> String {
        shorten(&self.plan.to_string()).into_owned()
    }

    /// The prefix of names, if it is the only look-up: the candidates are one range of records and are not
    /// collected first.
    pub fn as_name_prefix(&self) -> Option<&[u8]> {
        let Plan::LookUp(alternatives) = &self.plan else { return None };
        let [look_ups] = alternatives.as_slice() else { return None };
        let [Lookup::NamePrefix(beginning)] = look_ups.as_slice() else { return None };
        Some(beginning)
    }

    /// Whether an encoded image matches.
    pub fn matches(&self, image: &[u8], step: &mut impl FnMut() -> Result<()>) -> Result<bool> {
        match Encoded::new(image) {
            _ if self.filter.matches_all() => Ok(true),
            Some(image) => self.filter.try_matches(&image, step),
            None => self.filter.try_matches(&decode::<Image>(image)?, step),
        }
    }
}

/// Builds the `ListImagesResponse` of the matching images, within the buffer and until `cancel` ends it. A
/// damaged record is left out and logged.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    if let Some(beginning) = query.as_name_prefix() {
        log::debug!("list in {namespace}: {}", query.shown_plan());
        let names = records.scan_names(namespace, beginning)?;
        return fill(records, names, namespace, query, room, cancel);
    }
    match candidates(records, namespace, query, max_lookups(records)?, &mut cancel)? {
        Some(found) => fill(records, found.into_iter().map(Ok), namespace, query, room, cancel),
        None => {
            log::debug!("list in {namespace}: all images are read; {}", query.shown_plan());
            let all = records.scan(namespace, Kind::Image)?;
            fill(records, all, namespace, query, room, cancel)
        }
    }
}

/// [`list`], if few enough images may match to run it inline; else `None`.
pub fn list_if_few(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<Option<BuildOutcome>> {
    match candidates(records, namespace, query, INLINE_MAX, &mut cancel)? {
        Some(found) => {
            fill(records, found.into_iter().map(Ok), namespace, query, room, cancel).map(Some)
        }
        None => Ok(None),
    }
}

/// The number of images that a List reads.
pub fn rows_examined(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
) -> Result<usize> {
    if let Some(beginning) = query.as_name_prefix() {
        return Ok(records.scan_names(namespace, beginning)?.count());
    }
    let mut cancel = Cancel::never();
    Ok(match candidates(records, namespace, query, max_lookups(records)?, &mut cancel)? {
        Some(found) => found.len(),
        None => records.scan(namespace, Kind::Image)?.count(),
    })
}

/// The most candidates to look up one by one. With more of them a full scan is faster.
pub fn max_lookups(records: &impl Records) -> Result<usize> {
    Ok(usize::try_from(records.approximate_count()? / SCAN_STEPS)
        .unwrap_or(usize::MAX)
        .max(INLINE_MAX))
}

/// The most candidates to read inline: it takes less time than the hand-over to another thread.
const INLINE_MAX: usize = 32;

/// The cost of a look-up by the index, in steps of a full scan.
const SCAN_STEPS: u64 = 4;

/// The candidates: all matching images and perhaps others, if the index finds them and they are at most
/// `max_candidates`. A damaged index counts as none.
pub fn candidates<'t>(
    records: &'t impl Records,
    namespace: &Namespace,
    query: &Query,
    max_candidates: usize,
    cancel: &mut Cancel,
) -> Result<Option<Vec<Entry<'t>>>> {
    let mut step = || cancel.check().and_then(|()| records.check_held());
    let found = records.candidates(namespace, &query.plan, max_candidates, &mut step);
    // The error that ended the look-up ends the List too.
    step()?;
    let found = found.unwrap_or_else(|e| {
        throttled_log!(Error, "looking up images in namespace {namespace}: {e}");
        None
    });
    let Some(found) = found else { return Ok(None) };
    log::debug!("list in {namespace}: {}; {} candidates", query.shown_plan(), found.len());
    Ok(Some(found))
}

fn fill<'t>(
    records: &impl Records,
    entries: impl Iterator<Item = Result<Entry<'t>>>,
    namespace: &Namespace,
    query: &Query,
    room: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    let mut reply = ReplyBuilder::new(room);
    // Called within one image too: its fields may be long, and regular expressions slow on them.
    let mut step = || cancel.check().and_then(|()| records.check_held());
    for entry in entries {
        step()?;
        let image = entry?.message();
        match image.and_then(|image| Ok((image, query.matches(image, &mut step)?))) {
            Ok((image, true)) => reply.add(image),
            Ok((_, false)) => {}
            // These end the List itself.
            Err(e @ (Error::DeadlineExceeded(_) | Error::Unavailable(_))) => return Err(e),
            Err(e) => {
                reply.leave_out();
                throttled_log!(Error, "left out of a list of namespace {namespace}: {e}");
            }
        }
    }
    Ok(reply.built())
}

/// Stores a new, validated image with its time of creation. If the image expires, it is added to the
/// `lease` of the call.
pub fn create(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    mut image: Image,
    epoch: Option<&Timestamp>,
    room: ReplyRoom,
) -> Result<Made> {
    let lease = leases::holding(change, namespace, lease, &image)?;
    if change.record(namespace, Kind::Image, &image.name)?.is_some() {
        return Err(Error::already_exists(format_args!("image {}", quote(&image.name))));
    }
    image::drop_empty(&mut image)?;
    let now = time(epoch);
    image.created_at = Some(now.clone()).into();
    image.updated_at = Some(now).into();
    write(change, namespace, lease, image, room)
}

/// Applies the fields of `new` that `mask` names to an image, and sets its time of change. If the image
/// expires, it is added to the `lease` of the call.
pub fn update(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    new: Image,
    mask: &[String],
    epoch: Option<&Timestamp>,
    room: ReplyRoom,
) -> Result<Made> {
    let stored =
        change.record(namespace, Kind::Image, &new.name)?.ok_or_else(|| not_found(&new.name))?;
    let mut image: Image = decode(stored)?;
    image::update(&mut image, new, mask)?;
    image::validate(&image)?;
    let lease = leases::holding(change, namespace, lease, &image)?;
    image::drop_empty(&mut image)?;
    image.updated_at = Some(time(epoch)).into();
    write(change, namespace, lease, image, room)
}

/// Removes an image. If the request names a target digest, the image must have it.
pub fn delete(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    request: &DeleteImageRequest,
) -> Result<()> {
    let name = &request.name;
    let wanted = &request.target.digest;
    if !wanted.is_empty() {
        let stored = change.record(namespace, Kind::Image, name)?.ok_or_else(|| not_found(name))?;
        let found = decode::<Image>(stored)?.target.digest.clone();
        if found != *wanted {
            return Err(Error::not_found(format_args!(
                "image {} has target {found}, not {wanted}",
                quote(name)
            )));
        }
    }
    if change.delete(namespace, Kind::Image, name)? { Ok(()) } else { Err(not_found(name)) }
}

/// The error for an image that is not there.
pub fn not_found(name: &str) -> Error {
    Error::not_found(format_args!("image {}", quote(name)))
}

/// The time of a change: the client's, or now.
fn time(epoch: Option<&Timestamp>) -> Timestamp {
    epoch.map_or_else(clock::record_time, image::normalize_timestamp)
}

/// Creates an image, or replaces the target and labels of the image of that name, like a Create and an
/// Update without a mask. Returns whether the image existed, and the bytes that were read and written.
pub fn put(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    image: Image,
) -> Result<(bool, usize)> {
    image::validate(&image)?;
    let stored = change.record(namespace, Kind::Image, &image.name)?;
    let (is_there, read) = (stored.is_some(), stored.map_or(0, <[u8]>::len));
    let before = stored.map(decode::<Image>).transpose()?;
    let created = before.and_then(|before| before.created_at.into_option());
    let (record, _) = replace(change, namespace, lease, image, created)?;
    Ok((is_there, read + record.len()))
}

/// Stores a validated image that was made at that time or is made now, and changed now. Gives its record
/// and its labels.
pub fn replace(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    mut image: Image,
    created: Option<Timestamp>,
) -> Result<(Vec<u8>, Labels)> {
    let lease = leases::holding(change, namespace, lease, &image)?;
    image::drop_empty(&mut image)?;
    let now = clock::record_time();
    image.created_at = created.or(Some(now.clone())).into();
    image.updated_at = Some(now).into();
    let record = record(&image)?;
    store(change, namespace, lease, &image, &record)?;
    Ok((record, image.labels))
}

/// Stores an image, if its reply fits into the reserved bytes.
fn write(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    image: Image,
    room: ReplyRoom,
) -> Result<Made> {
    let record = codec::encode(&image)?;
    let mut reply = ReplyBuilder::new(ReplyBuffer::fixed(room.limit.min(room.held), None));
    reply.add(&record);
    let built = reply.built();
    let Some(reply) = built.reply else {
        return if built.size > room.limit {
            Err(Error::message_too_large(built.size, room.limit))
        } else {
            Ok(Made::Needs(built.size))
        };
    };
    check(&image, &record)?;
    store(change, namespace, lease, &image, &record)?;
    Ok(Made::Written(Stored { answer: reply.message, labels: image.labels }))
}

/// Encodes an image for the store.
pub fn record(image: &Image) -> Result<Vec<u8>> {
    let record = codec::encode(image)?;
    check(image, &record)?;
    Ok(record)
}

fn check(image: &Image, record: &[u8]) -> Result<()> {
    let what = || format!("image {}", quote(&image.name));
    codec::check_record::<Image>(record, MAX_RECORD_BYTES, what)
}

fn store(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    image: &Image,
    record: &[u8],
) -> Result<()> {
    if let Some(id) = lease {
        leases::hold_image(change, namespace, id, &image.name)?;
    }
    namespaces::ensure(change, namespace)?;
    let expires = gc::expires(&image.labels);
    change.put(namespace, Kind::Image, &image.name, record, expires)
}
