//! The bodies of a forwarded call: the request to containerd, and the response from it.
//!
//! Each body takes the next piece after it has handed the previous one to h2. Dropping both halves of
//! a stream to containerd resets the stream at once and discards its unsent data, which containerd
//! might never read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body, Frame};
use tokio::task::JoinSet;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::model::Error;
use crate::transport::conn::coalesce::ConnectionAborter;
use crate::transport::grpc::request_body::RequestBody;
use crate::transport::status;

/// Sends the body of a request to containerd.
pub(crate) struct RequestPump {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// The piece that waits for send capacity, and whether it is the last one.
    waiting: Option<(Bytes, bool)>,
    /// No piece has been sent.
    is_first: bool,
}

/// The longest first piece, in bytes, that is sent without waiting for send capacity. A stream gets capacity
/// only after its headers were sent. So the headers and the message of most calls are one write, and
/// containerd wakes up once.
const MAX_FIRST_BYTES: usize = 16 << 10;

impl RequestPump {
    /// Sends `read`, the part of the body that was read before, and then the rest, `body`, on `stream`.
    pub(crate) fn new(read: Bytes, body: RequestBody, mut stream: SendStream<Bytes>) -> Self {
        let waiting = (!read.is_empty()).then(|| {
            // Capacity for one byte is enough, as for each later piece.
            stream.reserve_capacity(1);
            (read, body.is_end_stream())
        });
        Self { body, stream, waiting, is_first: true }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Some((data, is_last)) = self.waiting.take() {
                let waits = !self.is_first || data.len() > MAX_FIRST_BYTES;
                if waits && self.stream.capacity() == 0 && !data.is_empty() {
                    self.waiting = Some((data, is_last));
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(room) => room?,
                        None => return Poll::Ready(Ok(())),
                    };
                    continue;
                }
                self.is_first = false;
                self.stream.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.waiting = Some((Bytes::new(), true)),
                Some(Err(e)) => {
                    self.stream.send_reset(reason(&e));
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        // Capacity for one byte is enough: h2 buffers the rest of the piece.
                        self.stream.reserve_capacity(data.len().min(1));
                        self.waiting = Some((data, self.body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(self.stream.send_trailers(trailers));
                        }
                    }
                },
            }
        }
    }
}

impl Future for RequestPump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The response carries the reason of a failure.
        self.poll_send(cx).map(|_| ())
    }
}

/// The reason with which the client reset its request.
fn reason(error: &hyper::Error) -> Reason {
    let h2_error = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
    h2_error.and_then(h2::Error::reason).unwrap_or(Reason::CANCEL)
}

/// The body of containerd's response, forwarded as it arrives.
pub(crate) struct ResponseBody {
    body: RecvStream,
    /// The task that sends the rest of the request: a client may send more before it reads the response. The
    /// task ends with the response.
    _upload: Option<JoinSet<()>>,
    name: String,
    has_failed: bool,
    aborter: Arc<ConnectionAborter>,
    /// For the count of open calls.
    _open: Option<TaskTrackerToken>,
}

impl ResponseBody {
    /// The response of the containerd `name`. `upload` sends the rest of the request, `open` counts the call as open.
    pub(crate) fn new(
        body: RecvStream,
        upload: Option<RequestPump>,
        name: String,
        aborter: Arc<ConnectionAborter>,
        open: Option<TaskTrackerToken>,
    ) -> Self {
        let upload = upload.map(|upload| JoinSet::from_iter([upload]));
        Self { body, _upload: upload, name, has_failed: false, aborter, _open: open }
    }

    /// The last frame of a response whose stream failed with `error`.
    fn failure_frame(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        self.has_failed = true;
        match reset_reason(&error) {
            // The response is complete.
            Some(Reason::NO_ERROR) => None,
            Some(_) => Some(Err(error)),
            None => {
                let error = if self.aborter.is_aborted() {
                    Error::shutting_down()
                } else {
                    Error::Unavailable(format!("{} broke off the call: {error}", self.name))
                };
                Some(Ok(Frame::trailers(status::trailers(&error))))
            }
        }
    }
}

/// The reason of the reset, if `error` is the reset of a stream.
pub(crate) fn reset_reason(error: &h2::Error) -> Option<Reason> {
    error.is_reset().then(|| error.reason()).flatten()
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        if let Some(data) = ready!(self.body.poll_data(cx)) {
            let data = data.and_then(|data| {
                self.body.flow_control().release_capacity(data.len())?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(data.map_or_else(|e| self.failure_frame(e), |data| Some(Ok(data))));
        }
        let trailers = ready!(self.body.poll_trailers(cx)).transpose();
        Poll::Ready(match trailers {
            Some(Ok(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Err(e)) => self.failure_frame(e),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.body.is_end_stream()
    }
}
