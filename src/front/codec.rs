//! rust-protobuf messages on tonic's client.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use protobuf::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes requests of type `Q` and decodes replies of type `R`.
#[derive(Debug)]
pub struct MessageCodec<Q, R>(PhantomData<(Q, R)>);

impl<Q, R> Default for MessageCodec<Q, R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message, R: Message> Codec for MessageCodec<Q, R> {
    type Encode = Q;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<Q: Message, R: Message> Encoder for MessageCodec<Q, R> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, item: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item
            .write_to_bytes()
            .map_err(|e| Status::internal(format!("encoding {}: {e}", Q::NAME)))?;
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl<Q: Message, R: Message> Decoder for MessageCodec<Q, R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        R::parse_from_bytes(&bytes)
            .map(Some)
            .map_err(|e| Status::internal(format!("the reply is no {}: {e}", R::NAME)))
    }
}
