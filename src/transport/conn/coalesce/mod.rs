//! A connection's bytes, read and written in few system calls.
//!
//! The HTTP/2 library writes one frame at a time, of at most 16 KiB. Written one by one, each frame
//! costs a system call and wakes the peer. So the stream buffers what the connection writes, and a
//! sender task sends it. The sender task first lets the other tasks of the thread run once: they may
//! write more. The stream reads in large pieces while the peer sends bulk data.
//!
//! An idle connection holds no buffer.

mod buffers;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::io::poll_read_buf;

use self::buffers::{BUFFER_SIZE, LARGE_BUFFERS, SMALL_READ, Shared, send};

/// The stream of a connection. When it is dropped, the sender task sends what the socket takes
/// without waiting, and closes the socket.
#[derive(Debug)]
pub(crate) struct CoalescingStream {
    shared: Arc<Mutex<Shared>>,
}

impl CoalescingStream {
    /// Wraps `stream`, from which the caller has already read `first`. The caller must be on the
    /// runtime of the connection.
    pub(crate) fn new(stream: UnixStream, first: &[u8]) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            stream,
            read: first.to_vec(),
            taken: 0,
            bulk_reads: false,
            large_read: None,
            write: Vec::new(),
            sent: 0,
            bulk_writes: false,
            large_write: None,
            failed: None,
            sender: None,
            writer: None,
            closed: false,
        }));
        tokio::spawn(send(Arc::clone(&shared)).boxed());
        Self { shared }
    }

    /// Whether the write buffer is full. If it is, the stream wakes the task of `cx` when the buffer
    /// is sent.
    pub(crate) fn is_full(&self, cx: &Context<'_>) -> bool {
        let shared = &mut *self.shared.lock();
        let is_full = shared.write.len() >= shared.write_capacity(1) && shared.failed.is_none();
        if is_full {
            shared.writer = Some(cx.waker().clone());
        }
        is_full
    }

    /// Whether the peer has closed the connection. This does not read the bytes that it sent before.
    pub(crate) fn is_hung_up(&self) -> bool {
        let shared = self.shared.lock();
        let mut polled = [PollFd::new(shared.stream.as_fd(), PollFlags::POLLHUP)];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// A handle that can close the connection from another task.
    pub(crate) fn aborter(&self) -> ConnectionAborter {
        ConnectionAborter { shared: Arc::clone(&self.shared), is_aborted: AtomicBool::new(false) }
    }
}

/// Closes the connection of a [`CoalescingStream`], which another task owns: on
/// [`abort`](Self::abort), or when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionAborter {
    shared: Arc<Mutex<Shared>>,
    is_aborted: AtomicBool,
}

impl Drop for ConnectionAborter {
    fn drop(&mut self) {
        self.abort();
    }
}

impl ConnectionAborter {
    /// Whether this side closed the connection.
    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Relaxed)
    }

    /// Closes the connection: both sides read end of file, and every write fails.
    pub(crate) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Relaxed);
        // An error means that the connection is closed already.
        let _ = shutdown(self.shared.lock().stream.as_raw_fd(), Shutdown::Both);
    }
}

impl Drop for CoalescingStream {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        shared.closed = true;
        shared.sender.take().into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for CoalescingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.lock();
        if !shared.read.is_empty() {
            shared.drain_read_buffer(buf);
            return Poll::Ready(Ok(()));
        }
        if shared.bulk_reads && shared.large_read.is_none() {
            shared.large_read = LARGE_BUFFERS.try_acquire().ok();
        }
        if shared.large_read.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut shared.stream).poll_read(cx, buf))?;
            shared.bulk_reads = buf.remaining() == 0 && buf.filled().len() - before >= SMALL_READ;
            return Poll::Ready(Ok(()));
        }
        shared.read.reserve(BUFFER_SIZE);
        let polled = poll_read_buf(Pin::new(&mut shared.stream), cx, &mut shared.read);
        if polled.is_pending() {
            shared.release_read_buffer();
        }
        let count = ready!(polled)?;
        shared.bulk_reads = count >= SMALL_READ;
        shared.drain_read_buffer(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CoalescingStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.shared.lock();
        if let Some(kind) = shared.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let more = bufs.iter().map(|buf| buf.len()).sum();
        let capacity = shared.write_capacity(more);
        let Some(free) = capacity.checked_sub(shared.write.len()).filter(|free| *free > 0) else {
            shared.writer = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if shared.bulk_writes && shared.large_write.is_some() {
            shared.write.reserve_exact(free);
        }
        let mut room = free;
        for buf in bufs {
            let part = buf.get(..room).unwrap_or(buf);
            shared.write.extend_from_slice(part);
            room -= part.len();
        }
        shared.sender.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(free - room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The sender task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.lock();
        if shared.has_more() && shared.failed.is_none() {
            // The socket keeps one write waker, which is the sender task's.
            shared.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::buffers::MAX_LARGE_BUFFERS;
    use super::*;

    #[tokio::test]
    async fn writes_of_one_scheduler_round_arrive_as_one() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = CoalescingStream::new(ours, &[]);
        tokio::task::yield_now().await;
        stream.write_all(b"a head, ").await.unwrap();
        stream.flush().await.unwrap();
        // Another task of the thread has more.
        tokio::spawn(async move {
            stream.write_all(b"its data").await.unwrap();
            std::future::pending::<CoalescingStream>().await
        });
        let mut got = [0; 100];
        let count = theirs.read(&mut got).await.unwrap();
        assert_eq!(&got[..count], b"a head, its data");
    }

    #[tokio::test]
    async fn bytes_of_any_amount_come_and_go_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stream = CoalescingStream::new(ours, b"first ");
        let shared = Arc::clone(&stream.shared);
        let (mut read, mut write) = tokio::io::split(stream);
        let echo = async {
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut get, mut put) = theirs.split();
        let send = async {
            // Small at first, then large, then small.
            for piece in [&data[..10], &data[10..2_999_990], &data[2_999_990..]] {
                put.write_all(piece).await.unwrap();
            }
            put.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (count, (), ()) = tokio::join!(get.read_to_end(&mut got), send, echo);
        assert_eq!(count.unwrap(), 6 + data.len());
        assert!(got == [b"first ", &data[..]].concat());
        let shared = shared.lock();
        assert_eq!((shared.read.capacity(), shared.write.capacity()), (0, 0), "it is idle");
    }

    #[tokio::test]
    async fn an_unread_stream_buffers_a_bounded_amount() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = CoalescingStream::new(ours, &[]);
        let shared = Arc::clone(&stream.shared);
        let writing = tokio::spawn(async move {
            for _ in 0..100 {
                stream.write_all(&[0; BUFFER_SIZE]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        });
        while shared.lock().writer.is_none() {
            tokio::task::yield_now().await;
        }
        assert!(shared.lock().write.len() <= BUFFER_SIZE);
        drop(shared);
        let mut got = vec![0; 100 * BUFFER_SIZE];
        theirs.read_exact(&mut got).await.unwrap();
        writing.await.unwrap();
        assert_eq!(theirs.read(&mut got).await.unwrap(), 0, "dropped, it is closed");
    }

    #[tokio::test]
    async fn many_connections_share_the_large_buffers() {
        let mut open = Vec::new();
        for _ in 0..2 * MAX_LARGE_BUFFERS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut stream = CoalescingStream::new(ours, &[]);
            // Until neither the socket nor the buffer has room.
            let mut is_open = true;
            while std::mem::replace(&mut is_open, false) {
                std::future::poll_fn(|cx| {
                    while Pin::new(&mut stream).poll_write(cx, &[0; SMALL_READ])?.is_ready() {
                        is_open = true;
                    }
                    Poll::Ready(io::Result::Ok(()))
                })
                .await
                .unwrap();
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            open.push((stream, theirs));
        }
        let bytes = |stream: &CoalescingStream| stream.shared.lock().write.capacity();
        let together: usize = open.iter().map(|(stream, _)| bytes(stream)).sum();
        let small = 2 * MAX_LARGE_BUFFERS * SMALL_READ;
        assert!(together <= MAX_LARGE_BUFFERS * BUFFER_SIZE + small, "{together} bytes");
        // A connection with a small buffer sends everything, too.
        let (mut stream, mut theirs) = open.pop().unwrap();
        let read = async {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
        };
        let write = async {
            stream.write_all(&[7; 3 * SMALL_READ]).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
        };
        tokio::join!(read, write);
    }

    #[tokio::test]
    async fn a_write_to_a_closed_stream_fails() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = CoalescingStream::new(ours, &[]);
        drop(theirs);
        while stream.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
