//! The operations of Images inside a transaction, with the semantics of containerd 2.3
//! (`core/metadata/images.go`, `plugins/services/images`).
//!
//! Every answer is built as bytes around the stored record, which is the encoded image already:
//! nothing is decoded to be encoded again.

use protobuf::well_known_types::timestamp::Timestamp;

use super::events::Labels;
use super::message::{decode, encode};
use super::{collector, namespaces};
use crate::api::images::{DeleteImageRequest, ListImagesRequest};
use crate::model::filter::Filter;
use crate::model::go::quote::quote;
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::store::{Change, Kind, Records};

/// An answer that was built if it fitted into the room there was for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Built {
    /// The size of the encoded message, whether built or not.
    pub size: usize,
    /// The encoded message.
    pub message: Option<Vec<u8>>,
}

/// What a change made.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The encoded response, with the image as it is now.
    pub answer: Vec<u8>,
    /// The image's labels as they are now.
    pub labels: Labels,
}

/// Builds the `GetImageResponse` for an image, if it fits into `room` bytes.
pub fn get(
    records: &impl Records,
    namespace: &Namespace,
    name: &str,
    room: usize,
) -> Result<Built> {
    let image = records.record(namespace, Kind::Image, name)?.ok_or_else(|| not_found(name))?;
    let mut answer = Answer::new(room);
    answer.add(image);
    Ok(answer.built())
}

/// The filter of a List request.
pub fn filter(request: &ListImagesRequest) -> Result<Filter> {
    // containerd says it twice: once where filters are parsed, once where images are listed.
    Filter::parse_all(&request.filters)
        .map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))
}

/// Builds the `ListImagesResponse` of the images that match, if it fits into `room` bytes. A
/// damaged record is left out and reported in the log.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    filter: &Filter,
    room: usize,
) -> Result<Built> {
    let mut answer = Answer::new(room);
    for entry in records.walk(namespace, Kind::Image)? {
        let image = match entry?.message() {
            Ok(image) => image,
            Err(e) => {
                log::error!("left out of a list of namespace {namespace}: {e}");
                continue;
            }
        };
        if filter.is_always() || filter.matches(&decode::<Image>(image)?) {
            answer.add(image);
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

/// Changes an image by `new` under `mask`.
pub fn update(
    change: &mut Change<'_>,
    namespace: &Namespace,
    new: Image,
    mask: &[String],
    epoch: Option<&Timestamp>,
    room: usize,
) -> Result<Written> {
    let stored =
        change.record(namespace, Kind::Image, &new.name)?.ok_or_else(|| not_found(&new.name))?;
    let mut image: Image = decode(stored)?;
    image::update(&mut image, new, mask)?;
    image::validate(&image)?;
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
    epoch.map_or_else(Timestamp::now, image::normal_time)
}

/// Stores an image, if the answer that carries it fits into `room` bytes.
fn write(
    change: &mut Change<'_>,
    namespace: &Namespace,
    image: Image,
    room: usize,
) -> Result<Written> {
    let record = encode(&image)?;
    let mut answer = Answer::new(room);
    answer.add(&record);
    let built = answer.built();
    let answer = built.message.ok_or_else(|| Error::message_too_large(built.size, room))?;
    namespaces::ensure(change, namespace)?;
    let expires = collector::expires(&image.labels);
    change.put(namespace, Kind::Image, &image.name, &record, expires)?;
    Ok(Written { answer, labels: image.labels })
}

/// A response under construction. In every response of Images the image, or each of the images,
/// is field 1, so that one is the encoded images, each behind its tag and length.
struct Answer {
    message: Vec<u8>,
    size: usize,
    room: usize,
}

impl Answer {
    /// Field 1, length-delimited.
    const TAG: u8 = 1 << 3 | 2;

    fn new(room: usize) -> Self {
        Self { message: Vec::new(), size: 0, room }
    }

    /// Adds an image; once the room is used up, only its size.
    fn add(&mut self, image: &[u8]) {
        let mut length = image.len() as u64;
        let mut head = vec![Self::TAG];
        loop {
            let low = (length & 0x7f) as u8;
            length >>= 7;
            if length == 0 {
                head.push(low);
                break;
            }
            head.push(low | 0x80);
        }
        self.size += head.len() + image.len();
        if self.size > self.room {
            self.message = Vec::new();
            return;
        }
        self.message.extend_from_slice(&head);
        self.message.extend_from_slice(image);
    }

    fn built(self) -> Built {
        Built { size: self.size, message: (self.size <= self.room).then_some(self.message) }
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
        let mut answer = Answer::new(usize::MAX);
        for image in &images {
            answer.add(&image.write_to_bytes().unwrap());
        }
        let expected = ListImagesResponse { images: images.into(), ..Default::default() };
        let built = answer.built();
        assert_eq!(built.size as u64, expected.compute_size());
        assert_eq!(built.message, Some(expected.write_to_bytes().unwrap()));
    }

    #[test]
    fn an_answer_without_room_is_only_measured() {
        let mut answer = Answer::new(10);
        answer.add(&[0; 5]);
        answer.add(&[0; 5]);
        assert_eq!(answer.built(), Built { size: 14, message: None });
    }
}
