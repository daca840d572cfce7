//! Counts the calls of a forwarded connection that containerd has not answered, from the frames that pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use ttrpc::proto::{MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};

use crate::transport::ttrpc::frames::{Event, FrameScanner};

/// The stream of a client, with its requests and the answers to them counted. The bytes are not changed.
///
/// Bytes that are not ttrpc make a wrong count, which may be too high: the count is only a reason to end a connection
/// early.
pub(super) struct CountedStream<S> {
    stream: S,
    requests: FrameScanner,
    answers: FrameScanner,
    open: watch::Sender<usize>,
}

impl<S> CountedStream<S> {
    /// The stream, and the number of its open calls.
    pub(super) fn new(stream: S) -> (Self, watch::Receiver<usize>) {
        let (open, count) = watch::channel(0);
        let (requests, answers) = <(FrameScanner, FrameScanner)>::default();
        (Self { stream, requests, answers, open }, count)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let mut read = buf.filled().get(before..).unwrap_or_default();
        while let Some(event) = this.requests.take(&mut read) {
            // From its head on, so that no request is cut in the middle.
            if matches!(event, Event::Head(head) if head.type_ == MESSAGE_TYPE_REQUEST) {
                this.open.send_modify(|open| *open += 1);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        let mut written = buf.get(..count).unwrap_or_default();
        while let Some(event) = this.answers.take(&mut written) {
            if matches!(event, Event::End(head) if head.type_ == MESSAGE_TYPE_RESPONSE) {
                this.open.send_modify(|open| *open = open.saturating_sub(1));
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
