//! Forwarding calls to containerd unchanged: unary calls and streams in both directions, metadata,
//! trailers, deadlines and cancellation.
//!
//! The server does not decode the messages. It passes the body of the client's request to containerd, and
//! the body of containerd's response to the client. When a client disconnects, the server drops its call,
//! which resets the stream to containerd. When a client does not read, flow control stops containerd. Each
//! client connection has its own connection to containerd, so a stalled client
//! stalls no other client. The window of a connection is far larger than that of a stream
//! ([`CONNECTION_WINDOW_BYTES`]), so a stream that is not read stalls no other stream.
//!
//! When containerd resets a stream, the server resets the client's stream with the same reason. When
//! the connection to containerd fails, its calls end with UNAVAILABLE, and gRPC clients try again.

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::Reason;
use h2::client::SendRequest;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::containerd::DIRECT_HEADER;
use crate::containerd::client::MAX_HEADER_LIST;
use crate::model::{Error, Result};
use crate::transport::conn::coalesce::{CoalescingStream, ConnectionAborter};
use crate::transport::grpc::forward::body::{RequestPump, ResponseBody, reset_reason};
use crate::transport::grpc::message::Body;
use crate::transport::grpc::request_body::RequestBody;
use crate::transport::limits::{CONNECT_TIMEOUT, DRAIN_GRACE, GOAWAY_TIME, MAX_STREAMS};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The flow-control window of a stream, to containerd and from it. In smaller windows a large upload is
/// slower. With larger ones, streams that are not read would take more memory.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// The flow-control window of a connection. With a smaller window, a few unread streams would stall
/// the others.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;

/// The most clients for which the server opens a connection to containerd before their first call.
const MAX_OPENED_AHEAD: usize = 64;

/// The calls that end when something happens, perhaps never: clients have them open all the time.
const WAITING_CALLS: [&str; 4] = [
    "/containerd.services.events.v1.Events/Subscribe",
    "/containerd.services.tasks.v1.Tasks/Wait",
    "/containerd.services.sandbox.v1.Controller/Wait",
    "/runtime.v1.RuntimeService/GetContainerEvents",
];

/// The connection to containerd for the calls of one client connection. The first call opens it, unless it
/// was opened ahead; a call that finds it closed opens a new one.
#[derive(Debug)]
pub(crate) struct Upstream {
    socket: Arc<Path>,
    live: Mutex<Option<LiveConnection>>,
    /// Counts the client connections: each upstream of the socket has one clone. The upstream that they are
    /// made from has one clone too.
    clients: Arc<()>,
}

/// An open connection to containerd. It closes when the last clone of its aborter is dropped: the
/// [`Upstream`] has one, and each call has one.
#[derive(Debug, Clone)]
struct LiveConnection {
    sender: SendRequest<Bytes>,
    aborter: Arc<ConnectionAborter>,
    /// The open calls but [`WAITING_CALLS`]; each has a token.
    calls: TaskTracker,
}

impl Upstream {
    /// An upstream for the containerd at `socket`.
    pub(crate) fn new(socket: Arc<Path>) -> Self {
        Self { socket, live: Mutex::new(None), clients: Arc::default() }
    }

    /// An upstream for the same containerd, with a connection of its own.
    pub(crate) fn fresh(&self) -> Self {
        let (socket, clients) = (Arc::clone(&self.socket), Arc::clone(&self.clients));
        Self { socket, live: Mutex::new(None), clients }
    }

    /// Opens the connection before the first call. An error is ignored, because the first call tries again.
    /// With more than [`MAX_OPENED_AHEAD`] clients, the first call opens it, because a connection takes memory.
    pub(crate) fn open_ahead(self: &Arc<Self>, stop: &CancellationToken) {
        let clients = Arc::strong_count(&self.clients).saturating_sub(1);
        if clients > MAX_OPENED_AHEAD {
            return;
        }
        let (upstream, stop) = (Arc::clone(self), stop.clone());
        tokio::spawn(async move { drop(upstream.connection(&stop).await) }.boxed());
    }

    /// Forwards a call and returns the response. [`DRAIN_GRACE`] after `stop` the call is cut off, and before that when
    /// only [`WAITING_CALLS`] are left.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when containerd cannot be reached; [`Error::Upstream`] when containerd
    /// resets the call.
    pub(crate) async fn forward(
        &self,
        request: Request<RequestBody>,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        self.forward_begun(head, Bytes::new(), body, stop).await
    }

    /// Forwards a call whose body begins with `read`, which was read before.
    ///
    /// # Errors
    /// As for [`forward`](Self::forward).
    pub(crate) async fn forward_begun(
        &self,
        mut head: Parts,
        read: Bytes,
        body: RequestBody,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        head.uri = uri(head.uri.path_and_query().cloned())?;
        head.version = http::Version::HTTP_2;
        head.headers.insert(DIRECT_HEADER, HeaderValue::from_static("1"));
        let is_complete = read.is_empty() && body.is_end_stream();
        let is_waiting = WAITING_CALLS.contains(&head.uri.path());
        let LiveConnection { mut sender, aborter, calls } = self.connection(stop).await?;
        let open = (!is_waiting).then(|| calls.token());
        let into_status = |e: h2::Error| self.reset_status(&e, &aborter);
        let (mut response, stream) =
            sender.send_request(Request::from_parts(head, ()), is_complete).map_err(into_status)?;
        let mut upload = (!is_complete).then(|| RequestPump::new(read, body, stream));
        // Most requests are sent before the response begins, and need no task of their own.
        let response = poll_fn(|cx| {
            if upload.as_mut().is_some_and(|upload| Pin::new(upload).poll(cx).is_ready()) {
                upload = None;
            }
            Pin::new(&mut response).poll(cx)
        });
        let response = response.await.map_err(into_status)?;
        Ok(response.map(|body| {
            ResponseBody::new(body, upload, self.name(), Arc::clone(&aborter), open).boxed_unsync()
        }))
    }

    /// The status that a gRPC client derives from the reset of a stream. The client cannot derive it here,
    /// because this server always answers with a status.
    fn reset_status(&self, error: &h2::Error, aborter: &ConnectionAborter) -> Error {
        if aborter.is_aborted() {
            return Error::shutting_down();
        }
        let message = format!("{} broke off the call: {error}", self.name());
        let code = match reset_reason(error) {
            Some(Reason::REFUSED_STREAM) | None => return Error::Unavailable(message),
            Some(Reason::CANCEL) => tonic::Code::Cancelled,
            Some(Reason::ENHANCE_YOUR_CALM) => tonic::Code::ResourceExhausted,
            Some(Reason::INADEQUATE_SECURITY) => tonic::Code::PermissionDenied,
            Some(_) => tonic::Code::Internal,
        };
        Error::Upstream(code as i32, message)
    }

    /// The open connection, if it accepts calls, else a new one.
    async fn connection(&self, stop: &CancellationToken) -> Result<LiveConnection> {
        let mut live = self.live.lock().await;
        if let Some(LiveConnection { sender, aborter, calls }) = live.as_ref()
            && let Ok(sender) = sender.clone().ready().await
        {
            let (aborter, calls) = (Arc::clone(aborter), calls.clone());
            return Ok(LiveConnection { sender, aborter, calls });
        }
        let connected =
            tokio::time::timeout(CONNECT_TIMEOUT, self.connect(stop)).await.unwrap_or_else(|_| {
                Err(Error::Unavailable(format!("{} does not accept connections", self.name())))
            });
        Ok(live.insert(connected?).clone())
    }

    async fn connect(&self, stop: &CancellationToken) -> Result<LiveConnection> {
        let unreachable = |e: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{} cannot be reached: {e}", self.name()))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| unreachable(&e))?;
        let stream = CoalescingStream::new(stream, &[]);
        let aborter = Arc::new(stream.aborter());
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(Some(MAX_STREAMS as usize))
            .handshake(stream)
            .await
            .map_err(|e| unreachable(&e))?;
        // The task ends with the last sender. The calls report a failure of the connection.
        let (stop, last) = (stop.clone(), Arc::downgrade(&aborter));
        let calls = TaskTracker::new();
        let open = calls.clone();
        let task = async move {
            let past_grace = async {
                stop.cancelled().await;
                let only_waiting_calls_are_open = async {
                    tokio::time::sleep(GOAWAY_TIME).await;
                    open.close();
                    open.wait().await;
                };
                let _ = tokio::time::timeout(DRAIN_GRACE, only_waiting_calls_are_open).await;
            };
            tokio::select! {
                _ = connection => {}
                () = past_grace => last.upgrade().iter().for_each(|aborter| aborter.abort()),
            }
        };
        tokio::spawn(task.boxed());
        Ok(LiveConnection { sender, aborter, calls })
    }

    fn name(&self) -> String {
        format!("containerd at {}", PathBuf::from(&*self.socket).display())
    }
}

/// A URI of `path` and the authority that grpc-go clients send.
fn uri(path: Option<PathAndQuery>) -> Result<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static("localhost"));
    parts.path_and_query = path;
    Uri::from_parts(parts).map_err(|e| Error::InvalidArgument(format!("the path of the call: {e}")))
}
