//! An estimate of the memory that a decoded message takes.
//!
//! A decoded field takes many times its bytes on the wire: an empty string in a list is two bytes. So
//! the fields of a message are counted before the message is decoded.

use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};
use protobuf::rt::WireType;
use protobuf::{Message, MessageFull};

use crate::api::image_events::ImageCreate;
use crate::api::imagestore::ImageStore;
use crate::model::{Error, Result};

/// The most fields of a message, including those of nested messages: far more than the labels of an
/// image.
pub const MAX_FIELDS: usize = 64 << 10;

/// The memory of a decoded field in addition to its content, in bytes: a label is two strings and a tree
/// entry.
const BYTES_PER_FIELD: usize = 128;

/// The most memory, in bytes, that any decoded message of `size` bytes takes.
pub fn max_decoded_size(size: usize) -> usize {
    // The shortest field has two bytes.
    size + (size / 2).min(MAX_FIELDS) * BYTES_PER_FIELD
}

/// Any message up to this many bytes is small when decoded.
const SHORT: usize = 62;

/// The memory, in bytes, of a decoded message with `entries` labels and list elements.
pub fn decoded(message: &impl Message, entries: usize) -> usize {
    let bytes = usize::try_from(message.compute_size()).unwrap_or(usize::MAX);
    bytes.saturating_add(entries.saturating_mul(BYTES_PER_FIELD))
}

/// The memory of a list of strings, in bytes.
pub fn strings(list: &[String]) -> usize {
    list.iter().map(|text| text.len() + BYTES_PER_FIELD).sum()
}

/// The memory, in bytes, that the encoded `message` will take when decoded.
///
/// # Errors
/// `ResourceExhausted` if the message has more than [`MAX_FIELDS`] fields.
pub fn decoded_size<M: MessageFull>(message: &[u8]) -> Result<usize> {
    if message.len() <= SHORT {
        return Ok(message.len());
    }
    let mut fields = 0;
    // A malformed message cannot be counted; the decoder reports it with a better error.
    count(&M::descriptor(), message, &mut fields, 0);
    if fields > MAX_FIELDS {
        return Err(Error::ResourceExhausted(format!(
            "the {} has more than {MAX_FIELDS} fields, labels and elements of lists counted one by one: \
             send fewer",
            M::NAME
        )));
    }
    Ok(message.len() + fields * BYTES_PER_FIELD)
}

/// The deepest nesting to count; the crate's messages are less deep.
const MAX_DEPTH: usize = 8;

fn count(
    descriptor: &MessageDescriptor,
    message: &[u8],
    fields: &mut usize,
    depth: usize,
) -> Option<()> {
    let mut input = protobuf::CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof().ok()? {
        *fields += 1;
        if *fields > MAX_FIELDS {
            return None;
        }
        let (number, wire) = (tag >> 3, WireType::new(tag & 7)?);
        if wire != WireType::LengthDelimited {
            input.skip_field(wire).ok()?;
            continue;
        }
        let length = input.read_raw_varint32().ok()?;
        let from = usize::try_from(input.pos()).ok()?;
        let inner = message.get(from..from.checked_add(length as usize)?)?;
        input.skip_raw_bytes(length).ok()?;
        let of = descriptor.field_by_number(number).map(|field| field.runtime_field_type());
        if let Some(
            RuntimeFieldType::Singular(RuntimeType::Message(nested))
            | RuntimeFieldType::Repeated(RuntimeType::Message(nested)),
        ) = of
            && depth < MAX_DEPTH
        {
            count(&nested, inner, fields, depth + 1)?;
            if nested.full_name() == "google.protobuf.Any"
                && let Some((held, value)) = held(inner)
            {
                count(&held, value, fields, depth + 1)?;
            }
        }
    }
    Some(())
}

/// The messages that are decoded out of an Any. Those of events all have the fields of the one named
/// here, or fewer, under the same numbers.
fn known(type_url: &str) -> Option<MessageDescriptor> {
    // The type URL may have a host before the name.
    let name = type_url.rsplit('/').next()?;
    if name == ImageStore::descriptor().full_name() {
        return Some(ImageStore::descriptor());
    }
    let is_event = ["containerd.services.images.v1.Image", "containerd.events.Namespace"]
        .into_iter()
        .any(|beginning| name.starts_with(beginning));
    is_event.then(ImageCreate::descriptor)
}

/// The message in an Any, if it is one that is decoded.
fn held(any: &[u8]) -> Option<(MessageDescriptor, &[u8])> {
    let mut input = protobuf::CodedInputStream::from_bytes(any);
    let (mut type_url, mut value) = (&b""[..], &b""[..]);
    while let Some(tag) = input.read_raw_tag_or_eof().ok()? {
        let (number, wire) = (tag >> 3, WireType::new(tag & 7)?);
        if wire != WireType::LengthDelimited {
            input.skip_field(wire).ok()?;
            continue;
        }
        let length = input.read_raw_varint32().ok()?;
        let from = usize::try_from(input.pos()).ok()?;
        let inner = any.get(from..from.checked_add(length as usize)?)?;
        input.skip_raw_bytes(length).ok()?;
        match number {
            // As the library decodes it: of a field that is there twice the last counts.
            1 => type_url = inner,
            2 => value = inner,
            _ => {}
        }
    }
    Some((known(std::str::from_utf8(type_url).ok()?)?, value))
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
        let short = [0x0a, 0].repeat(SHORT / 2);
        assert!(
            max_decoded_size(short.len()) <= SMALL
                && decoded_size::<ListImagesRequest>(&short) == Ok(SHORT)
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
    fn what_is_no_message_is_counted_as_far_as_it_goes() {
        for broken in [&[0x0a; 99][..], &[0x0b; 99], &[0xff; 99]] {
            assert!(decoded_size::<CreateImageRequest>(broken).is_ok());
        }
    }

    #[test]
    fn no_message_takes_more_than_the_most_of_its_size() {
        for message in [create(0), create(500), [0x0a, 0].repeat(1000)] {
            assert!(
                decoded_size::<CreateImageRequest>(&message).unwrap()
                    <= max_decoded_size(message.len())
            );
        }
    }
}
