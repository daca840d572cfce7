//! The operations of Images inside a transaction, with the semantics of containerd 2.3
//! (`core/metadata/images.go`, `plugins/services/images`).
//!
//! A stored record is the encoded image, so every reply is built as bytes around it, without decoding.
//!
//! - [`query`]: List; the other operations are here

pub mod query;

use go_compat::quote::quote;
use protobuf::well_known_types::timestamp::Timestamp;

use super::events::Labels;
use super::reply::{BuildOutcome, ReplyBuilder};
use super::{leases, namespaces};
use crate::api::images::DeleteImageRequest;
use crate::clock;
use crate::limits::memory::ReplyBuffer;
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::service::codec;
use crate::service::codec::decode;
use crate::service::gc;
use crate::store::{Kind, Records, Transaction};

/// The outcome of a change of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The change was made.
    Written(WriteReply),
    /// Nothing was changed: the reply takes this number of bytes, and the caller must reserve them first.
    Needs(usize),
}

/// The result of a change.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteReply {
    /// The encoded response, with the image as it is now.
    pub answer: Vec<u8>,
    /// The image's labels as they are now.
    pub labels: Labels,
}

/// The bounds on the reply of a change, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct ReplyLimits {
    /// The largest reply of the transport: the change is refused beyond it.
    pub largest: usize,
    /// The bytes that are reserved, or need no reservation.
    pub reserved: usize,
}

/// The most bytes of a record: a gRPC reply with its prefix of five bytes carries no more. A Get over
/// ttrpc, whose frames are smaller, refuses a larger record and names its size.
pub(crate) const MAX_RECORD_BYTES: usize = (16 << 20) - 5;

/// Builds the `GetImageResponse` for an image, or only its size if the budget is exhausted.
pub fn get(
    records: &impl Records,
    namespace: &Namespace,
    name: &str,
    buffer: ReplyBuffer<'_>,
) -> Result<BuildOutcome> {
    let image = records.record(namespace, Kind::Image, name)?.ok_or_else(|| not_found(name))?;
    let mut reply = ReplyBuilder::new(buffer);
    reply.add(image);
    Ok(reply.built())
}

/// Stores a new, validated image with its time of creation. If the image expires, it is added to the
/// `lease` of the call. If the reply needs a larger reservation, the caller calls again with the same `image`.
pub fn create(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    image: &mut Image,
    epoch: Option<&Timestamp>,
    limits: ReplyLimits,
) -> Result<WriteOutcome> {
    let lease = leases::holding(change, namespace, lease, image)?;
    if change.record(namespace, Kind::Image, &image.name)?.is_some() {
        return Err(Error::already_exists(format_args!("image {}", quote(&image.name))));
    }
    image::drop_empty(image)?;
    let now = time(epoch);
    image.created_at = Some(now.clone()).into();
    image.updated_at = Some(now).into();
    write(change, namespace, lease, image, limits)
}

/// Applies the fields of `new` that `mask` names to an image, and sets its time of change. If the image
/// expires, it is added to the `lease` of the call.
pub fn update(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    new: &Image,
    mask: &[String],
    epoch: Option<&Timestamp>,
    limits: ReplyLimits,
) -> Result<WriteOutcome> {
    let stored =
        change.record(namespace, Kind::Image, &new.name)?.ok_or_else(|| not_found(&new.name))?;
    let mut image: Image = decode(stored)?;
    image::update(&mut image, new, mask)?;
    image::validate(&image)?;
    let lease = leases::holding(change, namespace, lease, &image)?;
    image::drop_empty(&mut image)?;
    image.updated_at = Some(time(epoch)).into();
    write(change, namespace, lease, &mut image, limits)
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
    image: &mut Image,
    limits: ReplyLimits,
) -> Result<WriteOutcome> {
    let record = codec::encode(image)?;
    let mut reply =
        ReplyBuilder::new(ReplyBuffer::fixed(limits.largest.min(limits.reserved), None));
    reply.add(&record);
    let built = reply.built();
    let Some(reply) = built.reply else {
        return if built.size > limits.largest {
            Err(Error::message_too_large(built.size, limits.largest))
        } else {
            Ok(WriteOutcome::Needs(built.size))
        };
    };
    check(image, &record)?;
    store(change, namespace, lease, image, &record)?;
    let labels = std::mem::take(&mut image.labels);
    Ok(WriteOutcome::Written(WriteReply { answer: reply.message, labels }))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Store;

    #[test]
    fn a_create_with_too_small_a_reservation_can_be_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut image = Image { name: "a".into(), ..Image::default() };
        image.labels.insert("key".into(), "value".repeat(100));
        image.labels.insert("empty".into(), String::new());
        let labels = BTreeMap::from([("key".to_owned(), "value".repeat(100))]);
        let work = move |change: &mut Transaction<'_>| {
            let namespace = Namespace::parse("n")?;
            let limits = |reserved| ReplyLimits { largest: 10_000, reserved };
            let first = create(change, &namespace, None, &mut image, None, limits(10))?;
            assert!(change.record(&namespace, Kind::Image, "a")?.is_none());
            let WriteOutcome::Needs(bytes) = first else { panic!("{first:?}") };
            let second = create(change, &namespace, None, &mut image, None, limits(bytes))?;
            let WriteOutcome::Written(stored) = second else { panic!("{second:?}") };
            assert_eq!((stored.answer.len(), stored.labels), (bytes, labels.clone()));
            let record = change.record(&namespace, Kind::Image, "a")?.unwrap();
            assert_eq!(decode::<Image>(record)?.labels, labels);
            Ok(())
        };
        store.writer().write_blocking(work).unwrap();
    }
}
