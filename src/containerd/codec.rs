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
        put(&item, buffer)
    }
}

fn put<Q: Message>(item: &Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
    let bytes = item
        .write_to_bytes()
        .map_err(|e| Status::internal(format!("encoding {}: {e}", Q::NAME)))?;
    buffer.put_slice(&bytes);
    Ok(())
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

/// Encodes requests of type `Q` and gives replies as the bytes that came.
#[derive(Debug)]
pub struct BytesCodec<Q>(PhantomData<Q>);

impl<Q> Default for BytesCodec<Q> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message> Codec for BytesCodec<Q> {
    type Encode = Q;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<Q: Message> Encoder for BytesCodec<Q> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, item: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        put(&item, buffer)
    }
}

impl<Q: Message> Decoder for BytesCodec<Q> {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
