//! An estimate of the memory that a decoded message takes.
//!
//! A decoded field can take many times its bytes on the wire: an empty string in a list has two bytes there.
//! So the transport counts the fields of a message before it decodes the message.

use std::io;

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Message};

use crate::api::image_events::ImageCreate;
use crate::api::imagestore::ImageStore;
use crate::api::{ApiMessage, Layout};
use crate::model::{Error, Result};

/// The most fields of a message, including those of nested messages: far more than the labels of an
/// image.
pub(crate) const MAX_FIELDS: usize = 64 << 10;

/// The memory of a decoded field in addition to its content, in bytes: a label is two strings and a tree
/// entry.
const BYTES_PER_FIELD: usize = 128;

/// The most memory, in bytes, that any decoded message of `size` bytes takes.
pub(crate) fn max_decoded_size(size: usize) -> usize {
    // The shortest field has two bytes.
    size + (size / 2).min(MAX_FIELDS) * BYTES_PER_FIELD
}

/// A message of at most this many bytes is small when decoded, whatever its fields.
const ALWAYS_SMALL_BYTES: usize = 62;

/// The memory, in bytes, of a decoded message with `entries` labels and list elements.
pub(crate) fn decoded(message: &impl Message, entries: usize) -> usize {
    let bytes = usize::try_from(message.compute_size()).unwrap_or(usize::MAX);
    bytes.saturating_add(entries.saturating_mul(BYTES_PER_FIELD))
}

/// The memory of a list of strings, in bytes.
pub(crate) fn strings(list: &[String]) -> usize {
    list.iter().map(|text| text.len() + BYTES_PER_FIELD).sum()
}

/// The memory, in bytes, that the encoded `message` will take when decoded.
///
/// # Errors
/// `ResourceExhausted` if the message has more than [`MAX_FIELDS`] fields.
pub(crate) fn decoded_size<M: ApiMessage>(message: &[u8]) -> Result<usize> {
    size_of(message, M::NAME, &M::LAYOUT)
}

fn size_of(message: &[u8], name: &str, layout: &Layout) -> Result<usize> {
    if message.len() <= ALWAYS_SMALL_BYTES {
        return Ok(message.len());
    }
    let mut fields = 0;
    // A malformed message cannot be counted; the decoder reports it with a better error.
    count(layout, message, &mut fields, 0);
    if fields > MAX_FIELDS {
        return Err(Error::ResourceExhausted(format!(
            "the {name} has more than {MAX_FIELDS} fields, labels and elements of lists counted one by \
             one: send fewer"
        )));
    }
    Ok(message.len() + fields * BYTES_PER_FIELD)
}

/// The deepest nesting to count; the crate's messages are less deep.
const MAX_DEPTH: usize = 8;

/// The number of a field, and its bytes if it is length-delimited.
type Field<'m> = (u32, Option<&'m [u8]>);

/// Reads the fields of an encoded message.
struct FieldReader<'m> {
    message: &'m [u8],
    input: CodedInputStream<'m>,
}

impl<'m> FieldReader<'m> {
    fn new(message: &'m [u8]) -> Self {
        Self { message, input: CodedInputStream::from_bytes(message) }
    }

    /// Returns the next field; `None` at the end.
    fn next(&mut self) -> protobuf::Result<Option<Field<'m>>> {
        let Some(tag) = self.input.read_raw_tag_or_eof()? else { return Ok(None) };
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let wire = WireType::new(tag & 7).ok_or_else(malformed)?;
        if wire != WireType::LengthDelimited {
            self.input.skip_field(wire)?;
            return Ok(Some((tag >> 3, None)));
        }
        let length = self.input.read_raw_varint32()?;
        let start = self.input.pos() as usize;
        self.input.skip_raw_bytes(length)?;
        let bytes = self.message.get(start..start.saturating_add(length as usize));
        Ok(Some((tag >> 3, Some(bytes.unwrap_or_default()))))
    }
}

fn count(layout: &Layout, message: &[u8], fields: &mut usize, depth: usize) -> Option<()> {
    let mut reader = FieldReader::new(message);
    while let Some((number, bytes)) = reader.next().ok()? {
        *fields += 1;
        if *fields > MAX_FIELDS {
            return None;
        }
        let Some(inner) = bytes else { continue };
        if let Some((_, nested)) = layout.messages.iter().find(|(field, _)| *field == number)
            && depth < MAX_DEPTH
        {
            count(nested, inner, fields, depth + 1)?;
            if nested.name == "google.protobuf.Any"
                && let Some((packed, value)) = unpack_any(inner)
            {
                count(packed, value, fields, depth + 1)?;
            }
        }
    }
    Some(())
}

/// The layout of a message that is decoded from an Any. All events have the fields of `ImageCreate`, or fewer,
/// under the same numbers.
fn layout_of(type_url: &str) -> Option<&'static Layout> {
    // The type URL may have a host before the name.
    let name = type_url.rsplit('/').next()?;
    if name == ImageStore::LAYOUT.name {
        return Some(&ImageStore::LAYOUT);
    }
    let is_event = ["containerd.services.images.v1.Image", "containerd.events.Namespace"]
        .into_iter()
        .any(|beginning| name.starts_with(beginning));
    is_event.then_some(&ImageCreate::LAYOUT)
}

/// The message in an Any, if the server decodes messages of that type.
fn unpack_any(any: &[u8]) -> Option<(&'static Layout, &[u8])> {
    let mut reader = FieldReader::new(any);
    let (mut type_url, mut value) = (&b""[..], &b""[..]);
    while let Some((number, bytes)) = reader.next().ok()? {
        match (number, bytes) {
            // As in the library, the last of two equal fields counts.
            (1, Some(bytes)) => type_url = bytes,
            (2, Some(bytes)) => value = bytes,
            _ => {}
        }
    }
    Some((layout_of(std::str::from_utf8(type_url).ok()?)?, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::events::PublishRequest;
    use crate::api::images::{CreateImageRequest, Image, ListImagesRequest};
    use crate::api::transfer::TransferRequest;
    use crate::limits::memory::SMALL;
    use protobuf::well_known_types::any::Any;
    use protobuf::{Message, MessageField};

    fn create(labels: usize) -> Vec<u8> {
        let labels = (0..labels).map(|n| (n.to_string(), String::new())).collect();
        let image = Image { name: "a name".into(), labels, ..Default::default() };
        let image = MessageField::some(image);
        CreateImageRequest { image, ..Default::default() }.write_to_bytes().unwrap()
    }

    #[test]
    fn labels_and_filters_are_counted_one_by_one() {
        let size =
            |message: &[u8]| decoded_size::<CreateImageRequest>(message).unwrap() - message.len();
        // The image and its name.
        assert_eq!(size(&create(1000)), 1002 * BYTES_PER_FIELD);
        let filters = ListImagesRequest { filters: vec![String::new(); 40], ..Default::default() };
        let message = filters.write_to_bytes().unwrap();
        assert_eq!(
            decoded_size::<ListImagesRequest>(&message),
            Ok(message.len() + 40 * BYTES_PER_FIELD)
        );
        let short = [0x0a, 0].repeat(ALWAYS_SMALL_BYTES / 2);
        assert!(
            max_decoded_size(short.len()) <= SMALL
                && decoded_size::<ListImagesRequest>(&short) == Ok(ALWAYS_SMALL_BYTES)
        );
    }

    #[test]
    fn text_is_not_taken_for_a_message() {
        let name = "a".repeat(1 << 20);
        let image = Image { name, ..Default::default() };
        let image = MessageField::some(image);
        let message = CreateImageRequest { image, ..Default::default() }.write_to_bytes().unwrap();
        assert_eq!(
            decoded_size::<CreateImageRequest>(&message),
            Ok(message.len() + 2 * BYTES_PER_FIELD)
        );
    }

    #[test]
    fn too_many_fields_are_refused_before_they_are_decoded() {
        assert!(decoded_size::<CreateImageRequest>(&create(MAX_FIELDS - 2)).is_ok());
        let error = decoded_size::<CreateImageRequest>(&create(MAX_FIELDS - 1)).unwrap_err();
        assert!(
            error.message().contains("CreateImageRequest has more than 65536 fields"),
            "{error}"
        );
        assert!(decoded_size::<ListImagesRequest>(&[0x0a, 0].repeat(MAX_FIELDS)).is_ok());
        assert!(decoded_size::<ListImagesRequest>(&[0x0a, 0].repeat(MAX_FIELDS + 1)).is_err());
    }

    #[test]
    fn a_message_in_an_any_is_counted_like_any_other() {
        let transfer = |type_url: &str, labels: usize| {
            let labels = (0..labels).map(|n| (n.to_string(), String::new())).collect();
            let store = ImageStore { labels, ..Default::default() };
            let value = store.write_to_bytes().unwrap();
            let any = Any { type_url: type_url.into(), value, ..Default::default() };
            let destination = MessageField::some(any);
            TransferRequest { destination, ..Default::default() }.write_to_bytes().unwrap()
        };
        for type_url in
            ["containerd.types.transfer.ImageStore", "x/containerd.types.transfer.ImageStore"]
        {
            let message = transfer(type_url, 1000);
            // The Any, its two fields, and the labels.
            let expected = message.len() + (3 + 1000) * BYTES_PER_FIELD;
            assert_eq!(decoded_size::<TransferRequest>(&message), Ok(expected));
            assert!(decoded_size::<TransferRequest>(&transfer(type_url, MAX_FIELDS)).is_err());
        }
        let kept = transfer("another.Message", MAX_FIELDS);
        assert_eq!(decoded_size::<TransferRequest>(&kept), Ok(kept.len() + 3 * BYTES_PER_FIELD));
        let event = ImageCreate {
            labels: (0..MAX_FIELDS).map(|n| (n.to_string(), String::new())).collect(),
            ..Default::default()
        };
        for type_url in
            ["containerd.services.images.v1.ImageUpdate", "containerd.events.NamespaceCreate"]
        {
            let value = event.write_to_bytes().unwrap();
            let any = Any { type_url: type_url.into(), value, ..Default::default() };
            let request = PublishRequest { event: MessageField::some(any), ..Default::default() };
            assert!(decoded_size::<PublishRequest>(&request.write_to_bytes().unwrap()).is_err());
        }
    }

    #[test]
    fn a_malformed_message_is_counted_up_to_its_error() {
        for broken in [&[0x0a; 99][..], &[0x0b; 99], &[0xff; 99]] {
            assert!(decoded_size::<CreateImageRequest>(broken).is_ok());
        }
    }

    #[test]
    fn no_message_takes_more_than_the_bound_for_its_size() {
        for message in [create(0), create(500), [0x0a, 0].repeat(1000)] {
            assert!(
                decoded_size::<CreateImageRequest>(&message).unwrap()
                    <= max_decoded_size(message.len())
            );
        }
    }
}
