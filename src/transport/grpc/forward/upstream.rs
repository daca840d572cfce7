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

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::containerd::client::MAX_HEADER_LIST;
use crate::model::{Error, Result};
use crate::transport::conn::coalesce::{CoalescingStream, ConnectionAborter};
use crate::transport::conn::listener::{Shutdown, wait};
use crate::transport::grpc::forward::body::{RequestPump, ResponseBody, reset};
use crate::transport::grpc::message::Body;
use crate::transport::grpc::server::MAX_STREAMS;

/// How long calls that are passed on may go on when the daemon stops. Whoever makes them needs
/// many, and streams of events never end by themselves.
pub const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// How long containerd may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a stream, and of all streams of a connection, may be on its way unread, to
/// containerd as from it. Only what is left unread takes memory. With less room for a stream,
/// containerd stops and waits for more room all the time, which costs a large Read a tenth of its
/// rate; with less for all together, a few streams that nobody reads would stall the others.
pub const WINDOW_BYTES: (u32, u32) = (1 << 20, 256 << 20);

/// A way to containerd for the calls of one client connection. It is made when the first call
/// wants it, and anew when it has broken.
#[derive(Debug)]
pub struct Upstream {
    socket: Arc<Path>,
    known: Mutex<Option<LiveConnection>>,
}

/// A connection to containerd. It ends with the last who has its breaker: the line, while it is in
/// use, and the calls on it.
#[derive(Debug, Clone)]
struct LiveConnection {
    sender: SendRequest<Bytes>,
    breaker: Arc<ConnectionAborter>,
}

impl Upstream {
    /// A line to the containerd behind `socket`.
    pub fn new(socket: Arc<Path>) -> Self {
        Self { socket, known: Mutex::new(None) }
    }

    /// Another line to the same containerd.
    pub fn fresh(&self) -> Self {
        Self::new(Arc::clone(&self.socket))
    }

    /// Passes a call on, and its answer back; soon after `stop` turns it is broken off.
    pub async fn forward(
        &self,
        request: Request<Incoming>,
        stop: &Shutdown,
    ) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        head.uri = uri(head.uri.path_and_query().cloned())?;
        head.version = http::Version::HTTP_2;
        let is_whole = body.is_end_stream();
        let LiveConnection { mut sender, breaker } = self.connection(stop).await?;
        let told = |e: h2::Error| self.reset_status(&e, &breaker);
        let (mut response, stream) =
            sender.send_request(Request::from_parts(head, ()), is_whole).map_err(told)?;
        let mut upload = (!is_whole).then(|| RequestPump::new(body, stream));
        // Most requests are sent by then: they need no task of their own.
        let response = poll_fn(|cx| {
            if upload.as_mut().is_some_and(|upload| Pin::new(upload).poll(cx).is_ready()) {
                upload = None;
            }
            Pin::new(&mut response).poll(cx)
        });
        let response = response.await.map_err(told)?;
        Ok(response.map(|body| {
            ResponseBody::new(body, upload, self.name(), Arc::clone(&breaker)).boxed_unsync()
        }))
    }

    /// What a client makes of a call that ends without a status. (It could not make it of the
    /// reset itself: an answer here has a status always.)
    fn reset_status(&self, error: &h2::Error, breaker: &ConnectionAborter) -> Error {
        if breaker.is_aborted() {
            return Error::shutting_down();
        }
        let told = format!("{} broke off the call: {error}", self.name());
        let code = match reset(error) {
            Some(Reason::REFUSED_STREAM) | None => return Error::Unavailable(told),
            Some(Reason::CANCEL) => tonic::Code::Cancelled,
            Some(Reason::ENHANCE_YOUR_CALM) => tonic::Code::ResourceExhausted,
            Some(Reason::INADEQUATE_SECURITY) => tonic::Code::PermissionDenied,
            Some(_) => tonic::Code::Internal,
        };
        Error::Upstream(code as i32, told)
    }

    /// The connection there is, if it takes calls, or else a new one.
    async fn connection(&self, stop: &Shutdown) -> Result<LiveConnection> {
        let mut known = self.known.lock().await;
        if let Some(LiveConnection { sender, breaker }) = known.as_ref()
            && let Ok(sender) = sender.clone().ready().await
        {
            return Ok(LiveConnection { sender, breaker: Arc::clone(breaker) });
        }
        let connected =
            tokio::time::timeout(CONNECT_TIMEOUT, self.connect(stop)).await.unwrap_or_else(|_| {
                Err(Error::Unavailable(format!("{} does not accept connections", self.name())))
            });
        Ok(known.insert(connected?).clone())
    }

    async fn connect(&self, stop: &Shutdown) -> Result<LiveConnection> {
        let told = |e: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{} cannot be reached: {e}", self.name()))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| told(&e))?;
        let stream = CoalescingStream::new(stream, &[]);
        let breaker = Arc::new(stream.aborter());
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES.0)
            .initial_connection_window_size(WINDOW_BYTES.1)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(Some(MAX_STREAMS as usize))
            .handshake(stream)
            .await
            .map_err(|e| told(&e))?;
        // It ends with the last sender; what went wrong the calls on it say.
        let (mut stop, last) = (stop.clone(), Arc::downgrade(&breaker));
        tokio::spawn(async move {
            let past_grace = async {
                wait(&mut stop).await;
                tokio::time::sleep(DRAIN_GRACE).await;
            };
            tokio::select! {
                _ = connection => {}
                () = past_grace => last.upgrade().iter().for_each(|breaker| breaker.abort()),
            }
        });
        Ok(LiveConnection { sender, breaker })
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
