//! Messages to bytes and back, with this crate's errors.

use protobuf::Message;

use crate::model::{Error, Result};

/// The bytes of a message.
pub fn encode(message: &impl Message) -> Result<Vec<u8>> {
    message.write_to_bytes().map_err(|e| Error::Internal(format!("encoding a message: {e}")))
}

/// The message in a stored record, whose checksum was right.
pub fn decode<M: Message>(record: &[u8]) -> Result<M> {
    M::parse_from_bytes(record).map_err(|e| {
        Error::DataLoss(format!("a record passes its checksum but is no {}: {e}", M::NAME))
    })
}

/// A field that must be set: an unset one ends containerd. `field` names it in the error.
pub fn required<M>(field: protobuf::MessageField<M>, name: &str) -> Result<M> {
    field.into_option().ok_or_else(|| Error::invalid_argument(format_args!("{name} must be set")))
}
