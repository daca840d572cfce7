//! The byte stream under a gRPC connection. It limits the rate of reading to the rate at which calls
//! begin.
//!
//! The HTTP/2 library reads all input before it begins the first call: thousands of HEADERS frames,
//! which take some KiB each, while other connections wait. So this stream scans its input for HEADERS
//! frames and passes a few of them per round ([`FairShare`]). Their calls begin before the next read,
//! because the library polls the stream before each call that it begins. While the server is
//! saturated, the stream does not read a connection above its fair share. It does not read a client
//! that leaves replies unread either: a refusal is no call in flight once it is written, so admission
//! control cannot bound refusals. Nor does it read a client whose calls leave much data unread while all
//! clients together have too much of it ([`unread_data`](crate::limits::unread_data)).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::limits::unread_data::ConnectionUnreadData;
use crate::transport::conn::coalesce::CoalescingStream;
use crate::transport::conn::fair::{CALL_COST, FairShare};
use crate::transport::conn::state::ConnectionState;
use crate::transport::grpc::frames::{FrameCounts, H2FrameScanner};

/// The cost of a byte outside DATA frames, in units. The shortest frame has nine bytes, and each
/// frame may need a reply.
const CONTROL_BYTE_COST: usize = 64;

/// The bytes of data that cost one unit, because the server only copies data. At a unit per byte, an
/// upload would spend most of its time waiting for rounds.
const DATA_BYTES_PER_UNIT: usize = 8;

/// The bytes of one read, unless the last read was mostly data. They hold a few HEADERS frames.
const READ_CHUNK_BYTES: usize = 1 << 10;

/// The bytes of one read while the server is saturated.
const READ_CHUNK_SATURATED_BYTES: usize = 128;

/// How often a stream that does not read checks whether its client has disconnected.
const HANGUP_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A stream with a limited rate of reading.
pub(crate) struct ThrottledStream {
    stream: CoalescingStream,
    connection: Arc<ConnectionState>,
    frames: H2FrameScanner,
    share: FairShare,
    unread: Arc<ConnectionUnreadData>,
    /// The last read was mostly data, so the next one is likely to be.
    bulk: bool,
    /// Runs while the stream does not read: reading would show that the client has disconnected.
    hangup_timer: Option<Pin<Box<Sleep>>>,
}

impl ThrottledStream {
    /// Throttles `stream`, whose first `preface` bytes are no frames. The data that arrives is added to
    /// `unread`.
    pub(crate) fn new(
        stream: CoalescingStream,
        connection: Arc<ConnectionState>,
        unread: Arc<ConnectionUnreadData>,
        preface: usize,
    ) -> Self {
        let frames = H2FrameScanner::after(preface);
        Self {
            stream,
            connection,
            frames,
            share: FairShare::default(),
            unread,
            bulk: false,
            hangup_timer: None,
        }
    }

    /// Pending while the client is connected, then the end of the stream.
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.stream.is_hung_up() {
            let timer = self
                .hangup_timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(HANGUP_POLL_INTERVAL)));
            ready!(timer.as_mut().poll(cx));
            self.hangup_timer = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ThrottledStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.poll_admission(cx) || this.unread.poll_paused(cx) {
            return this.poll_hang_up(cx);
        }
        this.hangup_timer = None;
        if this.stream.is_full(cx) {
            return Poll::Pending;
        }
        ready!(this.share.poll_ready(cx));
        let before = buf.filled().len();
        let polled = if this.bulk {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let chunk = if this.connection.admission().is_saturated() {
                READ_CHUNK_SATURATED_BYTES
            } else {
                READ_CHUNK_BYTES
            };
            let chunk = chunk.min(buf.remaining());
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(chunk));
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
            let count = part.filled().len();
            buf.advance(count);
            polled
        };
        if polled.is_pending() {
            this.share.refill();
        }
        ready!(polled)?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let FrameCounts { headers_frames, data_frames, data_bytes } = this.frames.scan(read);
        this.unread.add(data_bytes, data_frames);
        this.share.charge(
            headers_frames * CALL_COST
                + (read.len() - data_bytes) * CONTROL_BYTE_COST
                + data_bytes / DATA_BYTES_PER_UNIT,
        );
        this.bulk = data_bytes * 2 > read.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ThrottledStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::unread_data::UnreadData;
    use crate::transport::conn::admission::Admission;
    use crate::transport::conn::fair::QUANTUM;
    use crate::transport::conn::state::Peer;
    use crate::transport::grpc::frames::{FRAME_DATA, FRAME_HEADERS};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, head @ ..] = (length as u32).to_be_bytes();
        [&head[..], &[kind, 0, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    fn throttle(ours: UnixStream, connection: Arc<ConnectionState>) -> ThrottledStream {
        let unread = UnreadData::default().connection();
        ThrottledStream::new(CoalescingStream::new(ours, &[]), connection, unread, 0)
    }

    #[tokio::test]
    async fn all_bytes_pass_and_only_a_few_headers_frames_per_round() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
        let mut stream = throttle(ours, Arc::clone(&connection));
        let sent = [frame(FRAME_HEADERS, 20).repeat(2000), frame(FRAME_DATA, 16 << 10).repeat(10)]
            .concat();
        let bytes = sent.clone();
        let sender = tokio::spawn(async move {
            theirs.write_all(&bytes).await.unwrap();
            theirs
        });
        let (mut got, mut most, mut turn) = (Vec::new(), 0, H2FrameScanner::default());
        while got.len() < sent.len() {
            let mut headers_frames = 0;
            std::future::poll_fn(|cx| {
                let mut space = [0; 8 << 10];
                let mut buf = ReadBuf::new(&mut space);
                // However often the reader polls, it gets no more in one round.
                for _ in 0..1000 {
                    if Pin::new(&mut stream).poll_read(cx, &mut buf).is_pending() {
                        continue;
                    }
                    headers_frames += turn.scan(buf.filled()).headers_frames;
                    got.extend_from_slice(buf.filled());
                    buf.clear();
                }
                Poll::Ready(())
            })
            .await;
            most = most.max(headers_frames);
            tokio::task::yield_now().await;
        }
        assert!(got == sent);
        assert!(most <= QUANTUM / CALL_COST + READ_CHUNK_BYTES / 29 + 1, "{most} at a time");
        drop(sender.await.unwrap());
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }

    /// Panics if `read` ends before the other ready tasks have run.
    async fn assert_waits(read: impl Future) {
        tokio::select! {
            biased;
            _ = read => panic!("it is read"),
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn the_server_does_not_read_a_client_that_reads_no_reply() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
        let mut stream = throttle(ours, connection);
        // Write until both the socket and the coalescing buffer are full.
        let mut more = true;
        while std::mem::take(&mut more) {
            std::future::poll_fn(|cx| {
                while Pin::new(&mut stream).poll_write(cx, &[0; 4096])?.is_ready() {
                    more = true;
                }
                Poll::Ready(io::Result::Ok(()))
            })
            .await
            .unwrap();
            // The stream sends its buffer after the other ready tasks have run.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        theirs.write_all(&frame(FRAME_HEADERS, 1)).await.unwrap();
        let mut space = [0; 10];
        let mut read = Box::pin(stream.read_exact(&mut space));
        assert_waits(&mut read).await;
        let reader = tokio::spawn(async move { theirs.read_to_end(&mut Vec::new()).await });
        read.await.unwrap();
        drop(stream);
        reader.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_over_its_share_is_not_read_until_a_call_ends() {
        let all = Admission::new(2);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &all, Peer::default());
        let _other = ConnectionState::new(1, &all, Peer::default());
        let mut stream = throttle(ours, Arc::clone(&connection));
        theirs.write_all(&frame(FRAME_HEADERS, 1)).await.unwrap();
        let places = [connection.admit(0), connection.admit(0)];
        let mut space = [0; 10];
        let mut read = Box::pin(stream.read_exact(&mut space));
        assert_waits(&mut read).await;
        drop(places);
        read.await.unwrap();
        let _places = [connection.admit(0), connection.admit(0)];
        drop(theirs);
        let rest = stream.read_to_end(&mut Vec::new()).await;
        assert!(rest.is_ok(), "the stream does not notice that its client is gone");
    }
}
