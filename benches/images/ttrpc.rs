//! ttrpc by its frames.
//!
//! This is not the library's client, which passes every frame through two tasks and two channels. The gRPC client
//! of this benchmark does not, and the two protocols should differ by their servers only.

use std::path::Path;

use bytes::Bytes;
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::proto::{KeyValue, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, Request, Response};

use super::Result;
use super::client::{NAMESPACE, Prepared};

/// Length, stream, type and flags, before each message.
const HEADER: usize = 10;

/// The first byte of an answer that has a status in it: field 1, by length.
const STATUS: u8 = 1 << 3 | 2;

/// A whole frame. The caller fills in its stream.
pub fn prepare(service: &str, method: &str, payload: Vec<u8>) -> Result<Prepared> {
    let request = Request {
        service: service.into(),
        method: method.into(),
        payload,
        metadata: vec![KeyValue {
            key: "containerd-namespace-ttrpc".into(),
            value: NAMESPACE.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = request.write_to_bytes()?;
    let length = u32::try_from(message.len())?.to_be_bytes();
    let frame = [&length[..], &[0; 4], &[MESSAGE_TYPE_REQUEST, 0], &message].concat();
    Ok(Prepared { uri: http::Uri::default(), bytes: Bytes::from(frame) })
}

/// The message in an answer.
pub fn payload(answer: &[u8]) -> Result<Vec<u8>> {
    Ok(Response::parse_from_bytes(answer)?.payload)
}

/// One connection.
pub struct Ttrpc {
    stream: UnixStream,
    /// Clients have the odd streams.
    next: u32,
    sent: Vec<u8>,
    read: Vec<u8>,
}

impl Ttrpc {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|e| format!("connecting to {}: {e}", socket.display()))?;
        Ok(Self { stream, next: 1, sent: Vec::new(), read: Vec::with_capacity(16 << 10) })
    }

    /// Makes a call and gives back its answer, still in its envelope.
    pub async fn call(&mut self, prepared: &Prepared) -> Result<&[u8]> {
        let number = self.next;
        self.next = self.next.wrapping_add(2);
        self.sent.clear();
        self.sent.extend_from_slice(&prepared.bytes);
        self.sent
            .get_mut(4..8)
            .ok_or("a frame without a header")?
            .copy_from_slice(&number.to_be_bytes());
        self.stream.write_all(&self.sent).await?;

        self.read.clear();
        let mut wanted = HEADER;
        while self.read.len() < wanted {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(header) = self.read.first_chunk::<HEADER>() {
                let [a, b, c, d, e, f, g, h, kind, _] = *header;
                wanted = HEADER + u32::from_be_bytes([a, b, c, d]) as usize;
                if kind != MESSAGE_TYPE_RESPONSE || u32::from_be_bytes([e, f, g, h]) != number {
                    return Err(format!("a frame that answers nothing: {header:?}").into());
                }
                self.read.reserve(wanted - self.read.len().min(wanted));
            }
        }
        let answer = self.read.get(HEADER..wanted).unwrap_or_default();
        if answer.first() == Some(&STATUS) {
            let status = Response::parse_from_bytes(answer)?.status.unwrap_or_default();
            if status.code.value() != 0 {
                return Err(format!("status {}: {}", status.code.value(), status.message).into());
            }
        }
        Ok(answer)
    }
}
