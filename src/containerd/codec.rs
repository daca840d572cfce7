//! rust-protobuf messages on tonic's client.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use protobuf::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes requests of type `Q` and decodes replies of type `R`.
#[derive(Debug)]
pub struct MessageCodec<Q, R> {
    decode: fn(&mut DecodeBuf<'_>) -> Result<R, Status>,
    request: PhantomData<Q>,
}

impl<Q, R: Message> Default for MessageCodec<Q, R> {
    fn default() -> Self {
        Self { decode: parse, request: PhantomData }
    }
}

impl<Q> MessageCodec<Q, Vec<u8>> {
    /// A codec that returns the bytes of replies undecoded.
    pub(crate) fn undecoded() -> Self {
        Self {
            decode: |buffer| Ok(buffer.copy_to_bytes(buffer.remaining()).into()),
            request: PhantomData,
        }
    }
}

impl<Q, R> Clone for MessageCodec<Q, R> {
    fn clone(&self) -> Self {
        Self { decode: self.decode, request: PhantomData }
    }
}

impl<Q: Message, R: Send + 'static> Codec for MessageCodec<Q, R> {
    type Encode = Q;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        self.clone()
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.clone()
    }
}

impl<Q: Message, R> Encoder for MessageCodec<Q, R> {
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

impl<Q: Message, R> Decoder for MessageCodec<Q, R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        (self.decode)(buffer).map(Some)
    }
}

fn parse<R: Message>(buffer: &mut DecodeBuf<'_>) -> Result<R, Status> {
    let bytes = buffer.copy_to_bytes(buffer.remaining());
    R::parse_from_bytes(&bytes)
        .map_err(|e| Status::internal(format!("the reply is no {}: {e}", R::NAME)))
}
