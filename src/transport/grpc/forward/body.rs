//! The bodies of a call that is passed on: the request on its way to containerd, and the answer on
//! its way back.
//!
//! Each takes the next piece when the one before is under way. A stream to containerd whose two
//! ends are dropped is reset at once, with what of it waits for room: containerd may never read it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body, Frame, Incoming};
use tokio::task::JoinSet;

use crate::model::Error;
use crate::transport::conn::coalesce::ConnectionAborter;
use crate::transport::status;

/// A request on its way to containerd.
pub struct RequestPump {
    body: Incoming,
    stream: SendStream<Bytes>,
    /// What waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl RequestPump {
    /// The request in `body`, to be sent on `stream`.
    pub fn new(body: Incoming, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Some((data, is_last)) = self.waiting.take() {
                if self.stream.capacity() == 0 && !data.is_empty() {
                    self.waiting = Some((data, is_last));
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(room) => room?,
                        None => return Poll::Ready(Ok(())),
                    };
                    continue;
                }
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
                        // Room for a byte is enough: the rest of a piece may wait behind it.
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
        // Why it could not be sent, the answer says.
        self.poll_send(cx).map(|_| ())
    }
}

/// What the client said of a request that it broke off.
fn reason(error: &hyper::Error) -> Reason {
    let reset = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
    reset.and_then(h2::Error::reason).unwrap_or(Reason::CANCEL)
}

/// What containerd answers, as it comes.
pub struct ResponseBody {
    body: RecvStream,
    /// The rest of the request: a client that does not read its answer may go on sending. It ends
    /// with the answer.
    _upload: Option<JoinSet<()>>,
    name: String,
    is_broken: bool,
    breaker: Arc<ConnectionAborter>,
}

impl ResponseBody {
    /// The answer of the containerd that is called `name`; `upload` is what of the request is not
    /// sent yet.
    pub fn new(
        body: RecvStream,
        upload: Option<RequestPump>,
        name: String,
        breaker: Arc<ConnectionAborter>,
    ) -> Self {
        let upload = upload.map(|upload| JoinSet::from_iter([upload]));
        Self { body, _upload: upload, name, is_broken: false, breaker }
    }

    fn broken(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        self.is_broken = true;
        match reset(&error) {
            // All was said before.
            Some(Reason::NO_ERROR) => None,
            Some(_) => Some(Err(error)),
            None => {
                let error = if self.breaker.is_aborted() {
                    Error::shutting_down()
                } else {
                    Error::Unavailable(format!("{} broke off the call: {error}", self.name))
                };
                Some(Ok(Frame::trailers(status::trailers(&error))))
            }
        }
    }
}

/// The reason of a stream's reset, if that is what the error is.
pub fn reset(error: &h2::Error) -> Option<Reason> {
    error.is_reset().then(|| error.reason()).flatten()
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.is_broken {
            return Poll::Ready(None);
        }
        if let Some(data) = ready!(self.body.poll_data(cx)) {
            let data = data.and_then(|data| {
                self.body.flow_control().release_capacity(data.len())?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(data.map_or_else(|e| self.broken(e), |data| Some(Ok(data))));
        }
        let trailers = ready!(self.body.poll_trailers(cx)).transpose();
        Poll::Ready(match trailers {
            Some(Ok(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Err(e)) => self.broken(e),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_broken || self.body.is_end_stream()
    }
}
