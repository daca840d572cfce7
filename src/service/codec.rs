//! Encoding and decoding of messages, with this crate's errors.

use protobuf::Message;

use crate::api::ApiMessage;
use crate::limits::decoded_size;
use crate::model::{Context, Error, Result};

/// Encodes a message.
pub fn encode(message: &impl Message) -> Result<Vec<u8>> {
    message.write_to_bytes().or_internal("encoding a message")
}

/// Appends a length-delimited field to an encoded message. Inlined in a build for size too, as what reads the fields.
#[inline(always)]
pub(crate) fn push_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

/// Decodes the message of a stored record, whose checksum was verified.
pub fn decode<M: Message>(record: &[u8]) -> Result<M> {
    M::parse_from_bytes(record).map_err(|e| {
        Error::DataLoss(format!("a record passes its checksum but is no {}: {e}", M::NAME))
    })
}

/// Returns a field that must be set: containerd panics without it. The error has `name`.
pub fn required<M>(field: protobuf::MessageField<M>, name: &str) -> Result<M> {
    field.into_option().ok_or_else(|| Error::invalid_argument(format_args!("{name} must be set")))
}

/// Refuses a record that is larger than a reply can carry, or has more fields than a message may: a read
/// would fail, or take more memory than is reserved. The error has `what`.
pub(crate) fn check_record<M: ApiMessage>(
    record: &[u8],
    limit: usize,
    what: impl Fn() -> String,
) -> Result<()> {
    if record.len() > limit {
        return Err(Error::ResourceExhausted(format!(
            "{} would be a record of {} bytes, and at most {limit} are stored: shorten its texts",
            what(),
            record.len()
        )));
    }
    // The shortest field has two bytes, so only a large record can have too many.
    if record.len() / 2 > decoded_size::MAX_FIELDS {
        decoded_size::decoded_size::<M>(record)
            .map_err(|e| Error::ResourceExhausted(format!("{} cannot be stored: {e}", what())))?;
    }
    Ok(())
}
