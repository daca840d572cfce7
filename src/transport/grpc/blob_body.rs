//! The reply of Content/Read, from the file of the blob.
//!
//! The messages are the same as containerd's: pieces of 1 MiB, each with the number of bytes that were sent
//! before it. The body reads a message from the file in chunks, the next one when the client's flow-control
//! window has space for it. So a Read takes the memory of one chunk in addition to the window.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use h2::Reason;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};

use crate::containerd::blobs::BlobFile;
use crate::log_throttle::throttled_log;
use crate::proxy::live_reads::BlobRange;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;

/// The bytes of data in one message: the size of containerd's buffers.
const PIECE_BYTES: u64 = 1 << 20;

/// The most bytes of one read of the file.
const CHUNK_BYTES: u64 = 64 << 10;

/// The most bytes of a message before its data: the prefix, two tags and two numbers.
const MAX_HEAD_BYTES: usize = 5 + 2 * (1 + 10);

/// The tags of the fields `offset` and `data` of a message.
const OFFSET_TAG: u8 = 1 << 3;
const DATA_TAG: u8 = 2 << 3 | 2;

/// The messages of a range of a blob.
pub(crate) struct BlobBody {
    blob: Arc<BlobFile>,
    /// The offset of the next byte in the file.
    position: u64,
    /// The number of bytes of the range that were sent.
    sent: u64,
    /// The length of the range in bytes.
    length: u64,
    /// The pending read of a chunk that is not in the page cache.
    waiting: Option<BoxFuture<'static, io::Result<Vec<u8>>>>,
    is_done: bool,
}

impl BlobBody {
    /// The messages of `range`.
    pub(crate) fn new(range: BlobRange) -> Self {
        let BlobRange { blob, offset, length } = range;
        Self { blob, position: offset, sent: 0, length, waiting: None, is_done: false }
    }

    /// The body of a response.
    pub(crate) fn boxed(self) -> Body {
        BodyExt::boxed_unsync(self)
    }

    /// The bytes of data in the message of the next byte.
    fn piece(&self) -> u64 {
        PIECE_BYTES.min(self.length - (self.sent - self.sent % PIECE_BYTES))
    }

    /// The bytes before the next byte of data: the head of a message, or none in the middle of a message.
    fn head(&self) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(MAX_HEAD_BYTES + CHUNK_BYTES as usize);
        if self.sent.is_multiple_of(PIECE_BYTES) {
            let (mut head, piece) = (Vec::with_capacity(MAX_HEAD_BYTES), self.piece());
            if self.sent > 0 {
                head.push(OFFSET_TAG);
                put_varint(&mut head, self.sent);
            }
            head.push(DATA_TAG);
            put_varint(&mut head, piece);
            chunk.put_slice(&message::prefix(head.len() + piece as usize));
            chunk.put_slice(&head);
        }
        chunk
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let count = CHUNK_BYTES.min(self.piece() - self.sent % PIECE_BYTES);
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            None => {
                let mut chunk = self.head();
                let head = chunk.len();
                chunk.resize(head + count as usize, 0);
                let data = chunk.get_mut(head..).unwrap_or_default();
                if self.blob.read_cached(data, self.position)? == Some(count as usize) {
                    self.advance(count);
                    return Poll::Ready(Ok(chunk.into()));
                }
                let (blob, position) = (Arc::clone(&self.blob), self.position);
                self.waiting.insert(blob.read_on_disk(chunk, head, position).boxed())
            }
        };
        let chunk = ready!(waiting.poll_unpin(cx));
        self.waiting = None;
        self.advance(count);
        Poll::Ready(chunk.map(Bytes::from))
    }

    fn advance(&mut self, count: u64) {
        self.sent += count;
        self.position += count;
    }
}

fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

impl HttpBody for BlobBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        if self.sent == self.length {
            self.is_done = true;
            return Poll::Ready(Some(Ok(Frame::trailers(message::ok_trailers()))));
        }
        Poll::Ready(Some(match ready!(self.poll_chunk(cx)) {
            Ok(chunk) => Ok(Frame::data(chunk)),
            Err(e) => {
                self.is_done = true;
                throttled_log!(Error, "reading a blob of containerd failed in the middle: {e}");
                // A message may have begun, so no status can follow.
                Err(Reason::INTERNAL_ERROR.into())
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }
}
