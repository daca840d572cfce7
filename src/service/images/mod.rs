//! The operations of Images inside a transaction, with the semantics of containerd 2.3
//! (`core/metadata/images.go`, `plugins/services/images`).
//!
//! Every answer is built as bytes around the stored record, which is the encoded image already:
//! nothing is decoded to be encoded again.

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

/// What a List asks for.
#[derive(Debug)]
pub struct Query {
    filter: Filter,
    plan: Plan,
}

/// What became of a change of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made.
    Written(Stored),
    /// Nothing was changed: its reply takes so many bytes, for which a share of the budget is to be held
    /// first.
    Needs(usize),
}

/// What a change made.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The encoded response, with the image as it is now.
    pub answer: Vec<u8>,
    /// The image's labels as they are now.
    pub labels: Labels,
}

/// How many bytes the reply of a change may have.
#[derive(Debug, Clone, Copy)]
pub struct ReplyRoom {
    /// What the transport can carry: the change is refused beyond it.
    pub limit: usize,
    /// What is held of the budget for it, or needs no share.
    pub held: usize,
}

/// A record has so many bytes at most: what a reply of gRPC can carry with its head of five bytes. A
/// Get over ttrpc, whose frames are smaller, refuses a large one with its size.
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
    /// What a List with these filters asks for.
    pub fn new(filters: &[String]) -> Result<Self> {
        Self::compile(filters, &mut Cancel::never())
    }

    /// The same, within the time and the memory of `patience`.
    pub fn compile(filters: &[String], patience: &mut Cancel) -> Result<Self> {
        // containerd says it twice: once where filters are parsed, once where images are listed.
        let parse = |filters: &[String]| {
            Filter::parse(filters).map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))
        };
        let filter = patience.compile(filters, parse)?;
        let plan = Plan::new(&filter);
        Ok(Self { filter, plan })
    }

    /// How its images are found.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan as a line of the log has it.
    fn shown_plan(&self) -> String {
        shorten(&self.plan.to_string()).into_owned()
    }

    /// What names begin with, when that is the only look-up: its candidates are one range of records,
    /// and need not be gathered first.
    fn as_name_prefix(&self) -> Option<&[u8]> {
        let Plan::LookUp(alternatives) = &self.plan else { return None };
        let [look_ups] = alternatives.as_slice() else { return None };
        let [Lookup::NamePrefix(beginning)] = look_ups.as_slice() else { return None };
        Some(beginning)
    }

    fn matches(&self, image: &[u8], step: &mut impl FnMut() -> Result<()>) -> Result<bool> {
        match Encoded::new(image) {
            _ if self.filter.matches_all() => Ok(true),
            Some(image) => self.filter.try_matches(&image, step),
            None => self.filter.try_matches(&decode::<Image>(image)?, step),
        }
    }
}

/// Builds the `ListImagesResponse` of the images that match, if there is room and patience for it. A
/// damaged record is left out and reported in the log.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: ReplyBuffer<'_>,
    mut patience: Cancel,
) -> Result<BuildOutcome> {
    if let Some(beginning) = query.as_name_prefix() {
        log::debug!("list in {namespace}: {}", query.shown_plan());
        let names = records.scan_names(namespace, beginning)?;
        return fill(records, names, namespace, query, room, patience);
    }
    match candidates(records, namespace, query, max_lookups(records)?, &mut patience)? {
        Some(found) => fill(records, found.into_iter().map(Ok), namespace, query, room, patience),
        None => {
            log::debug!("list in {namespace}: all images are read; {}", query.shown_plan());
            let all = records.scan(namespace, Kind::Image)?;
            fill(records, all, namespace, query, room, patience)
        }
    }
}

/// The same, if so few images may match that it is done at once.
pub fn list_if_few(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: ReplyBuffer<'_>,
    mut patience: Cancel,
) -> Result<Option<BuildOutcome>> {
    match candidates(records, namespace, query, INLINE_MAX, &mut patience)? {
        Some(found) => {
            fill(records, found.into_iter().map(Ok), namespace, query, room, patience).map(Some)
        }
        None => Ok(None),
    }
}

/// How many images a List looks at.
pub fn rows_examined(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
) -> Result<usize> {
    if let Some(beginning) = query.as_name_prefix() {
        return Ok(records.scan_names(namespace, beginning)?.count());
    }
    let mut patience = Cancel::never();
    Ok(match candidates(records, namespace, query, max_lookups(records)?, &mut patience)? {
        Some(found) => found.len(),
        None => records.scan(namespace, Kind::Image)?.count(),
    })
}

/// So many candidates at most are looked up one by one; to read all is faster for more.
fn max_lookups(records: &impl Records) -> Result<usize> {
    Ok(usize::try_from(records.approximate_count()? / SCAN_STEPS)
        .unwrap_or(usize::MAX)
        .max(INLINE_MAX))
}

/// So many candidates are few: trying them takes less time than handing them to another thread.
const INLINE_MAX: usize = 32;

/// A look-up by the index costs about as much as so many steps of a walk through all records.
const SCAN_STEPS: u64 = 4;

/// The images among which are all that match, if they can be looked up and are at most so many. An
/// index that cannot be read is as good as none.
fn candidates<'t>(
    records: &'t impl Records,
    namespace: &Namespace,
    query: &Query,
    most: usize,
    patience: &mut Cancel,
) -> Result<Option<Vec<Entry<'t>>>> {
    let mut step = || patience.check().and_then(|()| records.check_held());
    let found = records.candidates(namespace, &query.plan, most, &mut step);
    // What ended it then says so again.
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
    mut patience: Cancel,
) -> Result<BuildOutcome> {
    let mut reply = ReplyBuilder::new(room);
    // Also within one image: its fields may be long, and regular expressions slow on them.
    let mut step = || patience.check().and_then(|()| records.check_held());
    for entry in entries {
        step()?;
        let image = entry?.message();
        match image.and_then(|image| Ok((image, query.matches(image, &mut step)?))) {
            Ok((image, true)) => reply.add(image),
            Ok((_, false)) => {}
            // The List itself is to end.
            Err(e @ (Error::DeadlineExceeded(_) | Error::Unavailable(_))) => return Err(e),
            Err(e) => {
                reply.leave_out();
                throttled_log!(Error, "left out of a list of namespace {namespace}: {e}");
            }
        }
    }
    Ok(reply.built())
}

/// Stores a new, validated image with its time of creation. The `lease` of the call holds it, if it
/// expires.
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

/// Changes an image to what `new` under `mask` says, with its time of change. The `lease` of the call
/// holds it, if it expires.
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

/// Removes an image; if the request names a target's digest, only while the image has it.
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

fn not_found(name: &str) -> Error {
    Error::not_found(format_args!("image {}", quote(name)))
}

/// The time a change is recorded with: the client's, or now.
fn time(epoch: Option<&Timestamp>) -> Timestamp {
    epoch.map_or_else(clock::record_time, image::normalize_timestamp)
}

/// Makes an image, or gives the one of that name another target and labels, as a Create does and an
/// Update without a mask. Says whether it was there, and how many bytes were read and are written.
pub fn put(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    mut image: Image,
) -> Result<(bool, usize)> {
    image::validate(&image)?;
    let lease = leases::holding(change, namespace, lease, &image)?;
    image::drop_empty(&mut image)?;
    let now = clock::record_time();
    let stored = change.record(namespace, Kind::Image, &image.name)?;
    let (is_there, read) = (stored.is_some(), stored.map_or(0, <[u8]>::len));
    let before = stored.map(decode::<Image>).transpose()?;
    image.created_at = before.and_then(|b| b.created_at.into_option()).or(Some(now.clone())).into();
    image.updated_at = Some(now).into();
    let record = record(&image)?;
    store(change, namespace, lease, &image, &record)?;
    Ok((is_there, read + record.len()))
}

/// Stores an image, if its reply fits into the room.
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

/// The record of an image that is to be stored.
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
