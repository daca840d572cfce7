//! Encoded messages on tonic's client. The client encodes and decodes them itself, so that tonic's code is in
//! the program once, and not for each message.

use bytes::{Buf, BufMut, Bytes};
use protobuf::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Takes encoded requests and returns encoded replies.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Encodes a request.
///
/// # Errors
/// `INTERNAL` when the message is larger than protobuf allows.
pub fn encode<Q: Message>(request: &Q) -> Result<Vec<u8>, Status> {
    request.write_to_bytes().map_err(|e| Status::internal(format!("encoding {}: {e}", Q::NAME)))
}

/// Decodes a reply.
///
/// # Errors
/// `INTERNAL` when the bytes are not a message of type `R`.
pub fn decode<R: Message>(reply: &[u8]) -> Result<R, Status> {
    R::parse_from_bytes(reply)
        .map_err(|e| Status::internal(format!("the reply is no {}: {e}", R::NAME)))
}
