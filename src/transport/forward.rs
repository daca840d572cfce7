//! Passing calls on to a containerd as they are: unary and streams either way, metadata, trailers,
//! deadlines, and being cancelled.
//!
//! Nothing is taken apart: the body of a request is the body of the call to containerd, and so
//! back. A client that leaves drops the call, which resets containerd's stream; one that does not
//! read holds containerd back by flow control. Every client connection has a connection to
//! containerd of its own, so that no client's stall is another's; and a connection's window holds
//! many streams' ([`WINDOW`]), so that a stream that is not read stalls no other one.
//!
//! A stream that containerd resets is reset here with the same reason. When the connection to it
//! breaks, calls end as UNAVAILABLE, as grpc clients that lose a server have it, and try again.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::gather::{Breaker, Gathered};
use super::grpc::{HEADERS, STREAMS};
use super::grpc_message::Body;
use super::listener::{Stop, stopped};
use super::status;
use crate::model::{Error, Result};

/// How long calls that are passed on may go on when the daemon stops. Whoever makes them needs
/// many, and streams of events never end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How long containerd may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How much of a stream, and of all streams of a connection, may be on its way unread, to
/// containerd as from it. Only what is left unread takes memory; with less room for all together,
/// a few streams that nobody reads would stall the others.
pub const WINDOW: (u32, u32) = (256 << 10, 256 << 20);

/// A way to containerd for the calls of one client connection. It is made when the first call
/// wants it, and anew when it has broken.
#[derive(Debug)]
pub struct Line {
    socket: Arc<Path>,
    known: Mutex<Option<Known>>,
}

/// A connection to containerd. It ends with the last who has its breaker: the line, while it is in
/// use, and the calls on it. (The library would keep it for an upload that containerd does not
/// read, though the client is gone.)
#[derive(Debug, Clone)]
struct Known {
    sender: SendRequest<Incoming>,
    breaker: Arc<Breaker>,
}

impl Line {
    /// A line to the containerd behind `socket`.
    pub fn new(socket: Arc<Path>) -> Self {
        Self { socket, known: Mutex::new(None) }
    }

    /// Another line to the same containerd.
    pub fn another(&self) -> Self {
        Self::new(Arc::clone(&self.socket))
    }

    /// Passes a call on, and its answer back; soon after `stop` turns it is broken off.
    pub async fn forward(&self, request: Request<Incoming>, stop: &Stop) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        head.uri = uri(head.uri.path_and_query().cloned())?;
        head.version = http::Version::HTTP_2;
        let mut request = Request::from_parts(head, body);
        let mut again = true;
        let (response, breaker) = loop {
            let Known { mut sender, breaker } = self.known(stop).await?;
            let error = match sender.try_send_request(request).await {
                Ok(response) => break (response, breaker),
                // The connection ended before it had the call: another one is made, once.
                Err(mut e) => match e.take_message().filter(|_| std::mem::take(&mut again)) {
                    Some(unsent) => {
                        request = unsent;
                        continue;
                    }
                    None => e.into_error(),
                },
            };
            return Err(self.broken_off(&error));
        };
        let name = self.name();
        let passed = |body| Passed { body, name, is_broken: false, _breaker: breaker };
        Ok(response.map(|body| passed(body).boxed_unsync()))
    }

    /// What a client makes of a call that ends without a status. (It could not make it of the
    /// reset itself: an answer here has a status always.)
    fn broken_off(&self, error: &hyper::Error) -> Error {
        let told = format!("{} broke off the call: {}", self.name(), innermost(error));
        let code = match reset(error) {
            Some(Reason::REFUSED_STREAM) | None => return Error::Unavailable(told),
            Some(Reason::CANCEL) => tonic::Code::Cancelled,
            Some(Reason::ENHANCE_YOUR_CALM) => tonic::Code::ResourceExhausted,
            Some(Reason::INADEQUATE_SECURITY) => tonic::Code::PermissionDenied,
            Some(_) => tonic::Code::Internal,
        };
        Error::Answered(code as i32, told)
    }

    async fn known(&self, stop: &Stop) -> Result<Known> {
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| !known.sender.is_closed()) {
            return Ok(known.clone());
        }
        let connected =
            tokio::time::timeout(CONNECT, self.connect(stop)).await.unwrap_or_else(|_| {
                Err(Error::Unavailable(format!("{} does not accept connections", self.name())))
            });
        Ok(known.insert(connected?).clone())
    }

    async fn connect(&self, stop: &Stop) -> Result<Known> {
        let told = |e: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{} cannot be reached: {e}", self.name()))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| told(&e))?;
        let stream = Gathered::new(stream, &[]);
        let breaker = Arc::new(stream.breaker());
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .initial_max_send_streams(STREAMS as usize)
            .max_header_list_size(HEADERS)
            .max_concurrent_reset_streams(STREAMS as usize)
            .max_pending_accept_reset_streams(STREAMS as usize)
            .max_local_error_reset_streams(STREAMS as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| told(&e))?;
        // It ends with the last sender; what went wrong the calls on it say.
        let (mut stop, last) = (stop.clone(), Arc::downgrade(&breaker));
        tokio::spawn(async move {
            let past_grace = async {
                stopped(&mut stop).await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                _ = connection => {}
                () = past_grace => last.upgrade().iter().for_each(|breaker| breaker.break_off()),
            }
        });
        Ok(Known { sender, breaker })
    }

    fn name(&self) -> String {
        format!("containerd at {}", PathBuf::from(&*self.socket).display())
    }
}

/// The same path at the authority that grpc-go clients send.
fn uri(path: Option<PathAndQuery>) -> Result<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static("localhost"));
    parts.path_and_query = path;
    Uri::from_parts(parts).map_err(|e| Error::InvalidArgument(format!("the path of the call: {e}")))
}

/// What lies at the bottom of an error; hyper says only what it was doing.
fn innermost(error: &hyper::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The reason of a stream's reset, if that is what the error is.
fn reset(error: &hyper::Error) -> Option<Reason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    error.is_reset().then(|| error.reason()).flatten()
}

/// What containerd answers, as it comes.
struct Passed {
    body: Incoming,
    name: String,
    is_broken: bool,
    _breaker: Arc<Breaker>,
}

impl HttpBody for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if self.is_broken {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Err(e)) if reset(&e).is_none() => {
                self.is_broken = true;
                let why = innermost(&e);
                let error = Error::Unavailable(format!("{} broke off the call: {why}", self.name));
                Some(Ok(Frame::trailers(status::trailers(&error))))
            }
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_broken || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
