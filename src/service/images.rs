//! The operations of Images inside a transaction, with the semantics of containerd 2.3
//! (`core/metadata/images.go`, `plugins/services/images`).
//!
//! Every answer is built as bytes around the stored record, which is the encoded image already:
//! nothing is decoded to be encoded again.

use protobuf::well_known_types::timestamp::Timestamp;

use super::budget::Room;
use super::events::Labels;
use super::message::{decode, encode};
use super::patience::Patience;
use super::{Reply, collector, namespaces};
use crate::api::images::DeleteImageRequest;
use crate::clock;
use crate::model::filter::Filter;
use crate::model::go::quote::quote;
use crate::model::image::encoded::Encoded;
use crate::model::image::plan::{LookUp, Plan};
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::store::{Change, Entry, Kind, Records};

/// An answer that was built if there was room for it.
#[derive(Debug)]
pub struct Built {
    /// The size of the encoded message, whether built or not.
    pub size: usize,
    /// The encoded message, with its share of the budget.
    pub reply: Option<Reply>,
}

/// What a List asks for.
#[derive(Debug)]
pub struct Query {
    filter: Filter,
    plan: Plan,
}

/// What a change made.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The encoded response, with the image as it is now.
    pub answer: Vec<u8>,
    /// The image's labels as they are now.
    pub labels: Labels,
}

/// Builds the `GetImageResponse` for an image, if there is room for it.
pub fn get(
    records: &impl Records,
    namespace: &Namespace,
    name: &str,
    room: Room<'_>,
) -> Result<Built> {
    let image = records.record(namespace, Kind::Image, name)?.ok_or_else(|| not_found(name))?;
    let mut answer = Answer::new(room);
    answer.add(image);
    Ok(answer.built())
}

impl Query {
    /// What a List with these filters asks for.
    pub fn new(filters: &[String]) -> Result<Self> {
        // containerd says it twice: once where filters are parsed, once where images are listed.
        let filter = Filter::parse_all(filters)
            .map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))?;
        let plan = Plan::new(&filter);
        Ok(Self { filter, plan })
    }

    /// How its images are found.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What names begin with, when that is the only look-up: its candidates are one range of records,
    /// and need not be gathered first.
    fn one_range(&self) -> Option<&[u8]> {
        let Plan::LookUp(alternatives) = &self.plan else { return None };
        let [look_ups] = alternatives.as_slice() else { return None };
        let [LookUp::NamePrefix(beginning)] = look_ups.as_slice() else { return None };
        Some(beginning)
    }

    fn matches(&self, image: &[u8]) -> Result<bool> {
        Ok(match Encoded::new(image) {
            _ if self.filter.is_always() => true,
            Some(image) => self.filter.matches(&image),
            None => self.filter.matches(&decode::<Image>(image)?),
        })
    }
}

/// Builds the `ListImagesResponse` of the images that match, if there is room and patience for it. A
/// damaged record is left out and reported in the log.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: Room<'_>,
    patience: Patience,
) -> Result<Built> {
    if let Some(beginning) = query.one_range() {
        log::debug!("list in {namespace}: {}", query.plan);
        return fill(records.walk_names(namespace, beginning)?, namespace, query, room, patience);
    }
    match candidates(records, namespace, query, most(records)?) {
        Some(found) => fill(found.into_iter().map(Ok), namespace, query, room, patience),
        None => {
            log::debug!("list in {namespace}: all images are read; {}", query.plan);
            fill(records.walk(namespace, Kind::Image)?, namespace, query, room, patience)
        }
    }
}

/// The same, if so few images may match that it is done at once.
pub fn list_few(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    room: Room<'_>,
    patience: Patience,
) -> Result<Option<Built>> {
    match candidates(records, namespace, query, FEW) {
        Some(found) => fill(found.into_iter().map(Ok), namespace, query, room, patience).map(Some),
        None => Ok(None),
    }
}

/// How many images a List looks at.
pub fn looks_at(records: &impl Records, namespace: &Namespace, query: &Query) -> Result<usize> {
    if let Some(beginning) = query.one_range() {
        return Ok(records.walk_names(namespace, beginning)?.count());
    }
    Ok(match candidates(records, namespace, query, most(records)?) {
        Some(found) => found.len(),
        None => records.walk(namespace, Kind::Image)?.count(),
    })
}

/// So many candidates at most are looked up one by one; to read all is faster for more.
fn most(records: &impl Records) -> Result<usize> {
    Ok(usize::try_from(records.size()? / WALK_STEPS).unwrap_or(usize::MAX).max(FEW))
}

/// So many candidates are few: trying them takes less time than handing them to another thread.
const FEW: usize = 32;

/// A look-up by the index costs about as much as so many steps of a walk through all records.
const WALK_STEPS: u64 = 4;

/// The images among which are all that match, if they can be looked up and are at most so many. An
/// index that cannot be read is as good as none.
fn candidates<'t>(
    records: &'t impl Records,
    namespace: &Namespace,
    query: &Query,
    most: usize,
) -> Option<Vec<Entry<'t>>> {
    let found = records.candidates(namespace, &query.plan, most).unwrap_or_else(|e| {
        log::error!("looking up images in namespace {namespace}: {e}");
        None
    })?;
    log::debug!("list in {namespace}: {}; {} candidates", query.plan, found.len());
    Some(found)
}

fn fill<'t>(
    entries: impl Iterator<Item = Result<Entry<'t>>>,
    namespace: &Namespace,
    query: &Query,
    room: Room<'_>,
    mut patience: Patience,
) -> Result<Built> {
    let mut answer = Answer::new(room);
    for entry in entries {
        patience.step()?;
        match entry?.message() {
            Ok(image) if query.matches(image)? => answer.add(image),
            Ok(_) => {}
            Err(e) => log::error!("left out of a list of namespace {namespace}: {e}"),
        }
    }
    Ok(answer.built())
}

/// Stores a new, validated image with its time of creation.
pub fn create(
    change: &mut Change<'_>,
    namespace: &Namespace,
    mut image: Image,
    epoch: Option<&Timestamp>,
    room: usize,
) -> Result<Written> {
    if change.record(namespace, Kind::Image, &image.name)?.is_some() {
        return Err(Error::already_exists(format_args!("image {}", quote(&image.name))));
    }
    image::drop_empty(&mut image)?;
    let now = time(epoch);
    image.created_at = Some(now.clone()).into();
    image.updated_at = Some(now).into();
    write(change, namespace, image, room)
}

/// An image as `new` under `mask` would have it, validated.
pub fn updated(
    records: &impl Records,
    namespace: &Namespace,
    new: Image,
    mask: &[String],
) -> Result<Image> {
    let stored =
        records.record(namespace, Kind::Image, &new.name)?.ok_or_else(|| not_found(&new.name))?;
    let mut image: Image = decode(stored)?;
    image::update(&mut image, new, mask)?;
    image::validate(&image)?;
    Ok(image)
}

/// Stores an image that [`updated`] gave, with its time of change.
pub fn update(
    change: &mut Change<'_>,
    namespace: &Namespace,
    mut image: Image,
    epoch: Option<&Timestamp>,
    room: usize,
) -> Result<Written> {
    image::drop_empty(&mut image)?;
    image.updated_at = Some(time(epoch)).into();
    write(change, namespace, image, room)
}

/// Removes an image; if the request names a target's digest, only while the image has it.
pub fn delete(
    change: &mut Change<'_>,
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
    epoch.map_or_else(clock::record_time, image::normal_time)
}

/// Stores an image, if the answer that carries it fits into `room` bytes.
fn write(
    change: &mut Change<'_>,
    namespace: &Namespace,
    image: Image,
    room: usize,
) -> Result<Written> {
    let record = encode(&image)?;
    let mut answer = Answer::new(Room::of(room, None));
    answer.add(&record);
    let built = answer.built();
    let answer = built.reply.ok_or_else(|| Error::message_too_large(built.size, room))?.message;
    namespaces::ensure(change, namespace)?;
    let expires = collector::expires(&image.labels);
    change.put(namespace, Kind::Image, &image.name, &record, expires)?;
    Ok(Written { answer, labels: image.labels })
}

/// A response under construction. In every response of Images the image, or each of the images,
/// is field 1, so that one is the encoded images, each behind its tag and length.
struct Answer<'b> {
    message: Vec<u8>,
    size: usize,
    room: Room<'b>,
}

impl<'b> Answer<'b> {
    /// Field 1, length-delimited.
    const TAG: u8 = 1 << 3 | 2;

    fn new(room: Room<'b>) -> Self {
        Self { message: Vec::new(), size: 0, room }
    }

    /// Adds an image; once there is no more room, only its size.
    fn add(&mut self, image: &[u8]) {
        let mut length = image.len() as u64;
        let head = 1 + protobuf::rt::compute_raw_varint64_size(length) as usize;
        self.size += head + image.len();
        if !self.room.fits(self.size) {
            self.message = Vec::new();
            return;
        }
        self.message.reserve(head + image.len());
        self.message.push(Self::TAG);
        while length >= 0x80 {
            self.message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.message.push(length as u8);
        self.message.extend_from_slice(image);
    }

    fn built(mut self) -> Built {
        let fits = self.room.fits(self.size);
        let hold = self.room.close(self.size);
        if fits && hold.is_some() {
            // It grew by doubling, and what it holds of the budget is its size.
            self.message.shrink_to_fit();
        }
        let reply = fits.then_some(Reply { message: self.message, hold });
        Built { size: self.size, reply }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::ListImagesResponse;
    use protobuf::Message;

    #[test]
    fn an_answer_is_the_message_it_stands_for() {
        let image = |name: usize| Image { name: "x".repeat(name), ..Image::default() };
        let images = [
            image(0),
            image(1),
            image(126),
            image(127),
            image(128),
            image(20_000),
            image(3_000_000),
        ];
        let mut answer = Answer::new(Room::of(usize::MAX, None));
        for image in &images {
            answer.add(&image.write_to_bytes().unwrap());
        }
        let expected = ListImagesResponse { images: images.into(), ..Default::default() };
        let built = answer.built();
        assert_eq!(built.size as u64, expected.compute_size());
        assert_eq!(
            built.reply.map(|reply| reply.message),
            Some(expected.write_to_bytes().unwrap())
        );
    }

    #[test]
    fn an_answer_without_room_is_only_measured() {
        let mut answer = Answer::new(Room::of(10, None));
        answer.add(&[0; 5]);
        answer.add(&[0; 5]);
        let built = answer.built();
        assert_eq!((built.size, built.reply.is_some()), (14, false));
    }
}
