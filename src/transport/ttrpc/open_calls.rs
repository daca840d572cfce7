//! Whether a forwarded connection has a call that containerd has not answered, from the frames that pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use ttrpc::proto::{MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};

use crate::transport::ttrpc::frames::{Event, FrameScanner};

/// The stream of a client, with its requests and the answers to them counted. The bytes are not changed.
///
/// Bytes that are not ttrpc, and answers without a request, make a wrong count, too high or too low. The count only
/// decides how soon a connection ends when the daemon stops.
pub(super) struct CountedStream<S> {
    stream: S,
    requests: FrameScanner,
    answers: FrameScanner,
    /// The requests whose head has arrived, without those that are answered.
    calls: usize,
    has_open_call: watch::Sender<bool>,
}

impl<S> CountedStream<S> {
    /// The stream, and whether it has an open call. A call is open from the first byte of its request to the last
    /// byte of its answer.
    pub(super) fn new(stream: S) -> (Self, watch::Receiver<bool>) {
        let (has_open_call, seen) = watch::channel(false);
        let (requests, answers) = <(FrameScanner, FrameScanner)>::default();
        (Self { stream, requests, answers, calls: 0, has_open_call }, seen)
    }

    fn publish(&self) {
        let has_open_call = self.calls > 0 || !self.requests.is_between();
        self.has_open_call
            .send_if_modified(|known| std::mem::replace(known, has_open_call) != has_open_call);
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
            if matches!(event, Event::Head(head) if head.type_ == MESSAGE_TYPE_REQUEST) {
                this.calls += 1;
            }
        }
        this.publish();
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
                this.calls = this.calls.saturating_sub(1);
            }
        }
        this.publish();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
