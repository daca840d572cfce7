//! The buffers of a connection, which its stream and its sender task share.

use std::io;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most bytes that wait to be sent, and the most bytes of one bulk read.
pub(super) const BUFFER_SIZE: usize = 128 << 10;

/// A read below this many bytes does not start bulk reads, and a buffer of this size is free.
pub(super) const SMALL_READ: usize = 4 << 10;

/// The large buffers of all connections together. A connection that gets none reads and writes through
/// a small one, which takes more system calls.
pub(super) const MAX_LARGE_BUFFERS: usize = 64;

/// The permits of the large buffers.
pub(super) static LARGE_BUFFERS: Semaphore = Semaphore::const_new(MAX_LARGE_BUFFERS);

/// The right to one large buffer.
pub(super) type LargeBuffer = SemaphorePermit<'static>;

/// The socket and its buffers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stream: UnixStream,
    /// Bytes read from the socket. The connection has not taken those from `taken` on.
    pub(super) read: Vec<u8>,
    pub(super) taken: usize,
    /// The last read was large, so the next one is likely to be.
    pub(super) bulk_reads: bool,
    /// Held while `read` has memory.
    pub(super) large_read: Option<LargeBuffer>,
    /// Bytes to send. The sender task has sent those before `sent`.
    pub(super) write: Vec<u8>,
    pub(super) sent: usize,
    /// The last buffer was large, so the next one gets its full size at once: growing it copies.
    pub(super) bulk_writes: bool,
    /// Held while `write` may be large.
    pub(super) large_write: Option<LargeBuffer>,
    /// Why sending failed.
    pub(super) failed: Option<ErrorKind>,
    /// The sender task, while it has nothing to send.
    pub(super) sender: Option<Waker>,
    /// The connection's task, while it waits for room in `write`.
    pub(super) writer: Option<Waker>,
    pub(super) closed: bool,
}

/// The sender task: sends what the connection has written, until the stream is dropped or fails.
pub(super) async fn send(shared: Arc<Mutex<Shared>>) {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        let mut shared = shared.lock();
        if shared.has_more() && !waited && !shared.closed {
            waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        waited = false;
        let sent = shared.poll_send(cx);
        if let Poll::Ready(Err(e)) = &sent {
            shared.failed = Some(e.kind());
        }
        if sent.is_ready() {
            shared.writer.take().into_iter().for_each(Waker::wake);
            shared.sender = Some(cx.waker().clone());
        } else {
            // The socket wakes this task as soon as it takes more.
            waited = true;
        }
        if shared.closed || shared.failed.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Shared {
    pub(super) fn has_more(&self) -> bool {
        self.sent < self.write.len()
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.write.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if self.sent > 0 {
            self.bulk_writes = self.sent >= BUFFER_SIZE / 4;
        }
        self.write = Vec::new();
        self.large_write = None;
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// The most bytes that may wait to be sent. Takes a large buffer when a small one has no room for
    /// `more` bytes.
    pub(super) fn write_capacity(&mut self, more: usize) -> usize {
        if self.large_write.is_none() && self.write.len().saturating_add(more) > SMALL_READ {
            self.large_write = LARGE_BUFFERS.try_acquire().ok();
        }
        if self.large_write.is_some() { BUFFER_SIZE } else { SMALL_READ }
    }

    pub(super) fn release_read_buffer(&mut self) {
        self.read = Vec::new();
        self.large_read = None;
    }

    pub(super) fn drain_read_buffer(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.read.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        if self.taken == self.read.len() {
            self.taken = 0;
            self.read.clear();
            if !self.bulk_reads {
                self.release_read_buffer();
            }
        }
    }
}
