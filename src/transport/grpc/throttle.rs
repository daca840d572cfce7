//! The byte stream under a gRPC connection, read no faster than its calls begin.
//!
//! The library reads all that has come before it begins the first call of it: thousands of heads, of
//! which each takes some KiB, and others wait meanwhile. So this stream looks for the heads of calls
//! as they pass: it lets a few through in a turn of the connection ([`Turns`]), and the calls begin
//! before it gives more (the library asks for more before each call that it begins); and
//! while all connections together have begun too many, one with more than its share is not read.
//! Nor is one that does not read itself: a refusal is no call any more when it is written, and there
//! would be no end of them.
//!
//! ```text
//! frame   0..3 length of the payload   3 type   4 flags   5..9 stream   9.. payload
//! ```

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::transport::conn::coalesce::CoalescingStream;
use crate::transport::conn::fair::{CALL_COST, FairShare};
use crate::transport::conn::state::ConnectionState;

/// A byte that is no data weighs in a turn as much as so many that are: the shortest frames have nine, and
/// each may want an answer.
const CONTROL_BYTE_COST: usize = 64;

/// So many bytes of data weigh as one: they are copied and no more. Were it one each, an upload through us
/// would wait for its turns most of the time.
const DATA_BYTES_PER_UNIT: usize = 8;

/// So many bytes are read at a time unless most of them are data: some heads. The second is what is
/// read while the connections together are at their limit.
const PIECE: (usize, usize) = (1 << 10, 128);

/// How often it is looked whether a client that is not read is still there.
const HANGUP_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The frame that begins a call.
const FRAME_HEADERS: u8 = 1;

/// The frame that carries data.
const FRAME_DATA: u8 = 0;

/// A paced stream.
pub struct ThrottledStream {
    stream: CoalescingStream,
    connection: Arc<ConnectionState>,
    frames: H2FrameScanner,
    turns: FairShare,
    /// The last bytes were data, and more of it comes.
    bulk: bool,
    /// Runs while nothing is read: a client that leaves is not seen otherwise.
    look: Option<Pin<Box<Sleep>>>,
}

impl ThrottledStream {
    /// Paces `stream`, whose first `before` bytes are no frames.
    pub fn new(stream: CoalescingStream, connection: Arc<ConnectionState>, before: usize) -> Self {
        let frames = H2FrameScanner { left: before, ..H2FrameScanner::default() };
        Self { stream, connection, frames, turns: FairShare::new(), bulk: false, look: None }
    }

    /// Pending while the client is there, then the end of the stream.
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.stream.is_hung_up() {
            let look =
                self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(HANGUP_POLL_INTERVAL)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
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
        if this.connection.poll_admission(cx) {
            return this.poll_hang_up(cx);
        }
        this.look = None;
        if this.stream.is_full(cx) {
            return Poll::Pending;
        }
        ready!(this.turns.poll_ready(cx));
        let before = buf.filled().len();
        let polled = if this.bulk {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let crowded = this.connection.admission().is_saturated();
            let piece = if crowded { PIECE.1 } else { PIECE.0 }.min(buf.remaining());
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(piece));
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
            let count = part.filled().len();
            buf.advance(count);
            polled
        };
        if polled.is_pending() {
            this.turns.refill();
        }
        ready!(polled)?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let (heads, data) = this.frames.scan(read);
        this.turns.charge(
            heads * CALL_COST
                + (read.len() - data) * CONTROL_BYTE_COST
                + data / DATA_BYTES_PER_UNIT,
        );
        this.bulk = data * 2 > read.len();
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

/// Where in its frames a stream of bytes is.
#[derive(Default)]
struct H2FrameScanner {
    head: [u8; 9],
    /// Bytes of the head that are known.
    known: usize,
    /// Bytes to come that are not looked at.
    left: usize,
}

impl H2FrameScanner {
    /// How many heads of calls are in the next bytes, and how many bytes are data.
    fn scan(&mut self, mut bytes: &[u8]) -> (usize, usize) {
        let (mut heads, mut data) = (0, 0);
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.known == self.head.len() && self.kind() == FRAME_DATA {
                data += skipped;
            }
            if self.left > 0 {
                return (heads, data);
            }
            self.known %= self.head.len();
            while let Some(to) = self.head.get_mut(self.known) {
                let Some((byte, rest)) = bytes.split_first() else { return (heads, data) };
                *to = *byte;
                self.known += 1;
                bytes = rest;
            }
            let [high, middle, low, ..] = self.head;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            heads += usize::from(self.kind() == FRAME_HEADERS);
        }
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::client::Client;
    use crate::transport::conn::admission::Admission;
    use crate::transport::conn::fair::QUANTUM;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, head @ ..] = (length as u32).to_be_bytes();
        [&head[..], &[kind, 0, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    #[test]
    fn heads_are_counted_however_the_bytes_are_cut() {
        let parts = [
            vec![7; 24],
            frame(FRAME_HEADERS, 30),
            frame(FRAME_DATA, 100),
            frame(4, 0),
            frame(FRAME_HEADERS, 0),
        ];
        let bytes = [parts.concat(), frame(9, 5), frame(FRAME_HEADERS, 1)].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut frames = H2FrameScanner { left: 24, ..H2FrameScanner::default() };
            let (one, other) = (frames.scan(first), frames.scan(second));
            assert_eq!((one.0 + other.0, one.1 + other.1), (3, 100), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn everything_comes_through_and_heads_a_few_at_a_time() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &Admission::default(), Client::Own);
        let mut stream =
            ThrottledStream::new(CoalescingStream::new(ours, &[]), Arc::clone(&connection), 0);
        let sent = [frame(FRAME_HEADERS, 20).repeat(2000), frame(FRAME_DATA, 16 << 10).repeat(10)]
            .concat();
        let bytes = sent.clone();
        let sender = tokio::spawn(async move {
            theirs.write_all(&bytes).await.unwrap();
            theirs
        });
        let (mut got, mut most, mut turn) = (Vec::new(), 0, H2FrameScanner::default());
        while got.len() < sent.len() {
            let mut heads = 0;
            std::future::poll_fn(|cx| {
                let mut space = [0; 8 << 10];
                let mut buf = ReadBuf::new(&mut space);
                // Asked again and again, it gives no more in one turn.
                for _ in 0..1000 {
                    if Pin::new(&mut stream).poll_read(cx, &mut buf).is_pending() {
                        continue;
                    }
                    heads += turn.scan(buf.filled()).0;
                    got.extend_from_slice(buf.filled());
                    buf.clear();
                }
                Poll::Ready(())
            })
            .await;
            most = most.max(heads);
            tokio::task::yield_now().await;
        }
        assert!(got == sent);
        assert!(most <= QUANTUM / CALL_COST + PIECE.0 / 29 + 1, "{most} at a time");
        drop(sender.await.unwrap());
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }

    /// Panics when `read` ends while all else that is ready runs.
    async fn waits(read: impl Future) {
        tokio::select! {
            biased;
            _ = read => panic!("it is read"),
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_read() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &Admission::default(), Client::Own);
        let mut stream = ThrottledStream::new(CoalescingStream::new(ours, &[]), connection, 0);
        // Until neither the socket nor what is gathered has room.
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
            // The sender looks at what else is ready, and then sends.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        theirs.write_all(&frame(FRAME_HEADERS, 1)).await.unwrap();
        let mut space = [0; 10];
        let mut read = Box::pin(stream.read_exact(&mut space));
        waits(&mut read).await;
        let reader = tokio::spawn(async move { theirs.read_to_end(&mut Vec::new()).await });
        read.await.unwrap();
        drop(stream);
        reader.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_has_more_than_its_share_is_not_read_until_a_call_ends() {
        let all = Admission::new(2);
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let connection = ConnectionState::new(1, &all, Client::Own);
        let _other = ConnectionState::new(1, &all, Client::Own);
        let mut stream =
            ThrottledStream::new(CoalescingStream::new(ours, &[]), Arc::clone(&connection), 0);
        theirs.write_all(&frame(FRAME_HEADERS, 1)).await.unwrap();
        let places = [connection.admit(0), connection.admit(0)];
        let mut space = [0; 10];
        let mut read = Box::pin(stream.read_exact(&mut space));
        waits(&mut read).await;
        drop(places);
        read.await.unwrap();
        let _places = [connection.admit(0), connection.admit(0)];
        drop(theirs);
        let rest = stream.read_to_end(&mut Vec::new()).await;
        assert!(rest.is_ok(), "that it is gone is seen all the same");
    }
}
