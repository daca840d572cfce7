//! gRPC: HTTP/2 connections and their calls. A [`Router`] dispatches each call.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::api::ApiMessage;
use crate::limits::client::Client;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Result};
use crate::service::{CallContext, Reply};
use crate::transport::conn::coalesce::CoalescingStream;
use crate::transport::conn::state::{CallGuard, ConnectionState, Peer};
use crate::transport::conn::workers;
use crate::transport::grpc::forward::upstream::Upstream;
use crate::transport::grpc::message;
use crate::transport::grpc::message::{Body, RawRequest};
use crate::transport::grpc::metered_body::meter;
use crate::transport::grpc::request_body::RequestBody;
use crate::transport::grpc::throttle::ThrottledStream;
use crate::transport::limits::{GRPC_MESSAGE, MAX_STREAMS};
use crate::transport::{Limits, status};
use tokio_util::sync::CancellationToken;

/// The header that carries the namespace.
const NAMESPACE: &str = "containerd-namespace";

/// The first bytes of an HTTP/2 client (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most bytes of request headers.
pub(crate) const MAX_HEADER_LIST: u32 = 64 << 10;

/// The flow-control window of a stream. It is small, because the memory budget does not count its
/// bytes: a large request waits for the budget after its first bytes.
const STREAM_WINDOW_BYTES: u32 = 16 << 10;

/// The flow-control window of a connection: the windows of all its streams together. With a smaller one,
/// requests that wait for the budget would fill the window, requests with a reservation could not arrive,
/// and no request would end.
const CONNECTION_WINDOW_BYTES: u32 = MAX_STREAMS * STREAM_WINDOW_BYTES;

/// The most bytes of a stream that wait to be sent.
const SEND_BUFFER_BYTES: usize = 400 << 10;

/// How often the server sends a PING. A client that stops in the middle of a frame cannot answer it.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long a client may take to answer a PING.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How often the server looks for replies that a client leaves unread.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(2500);

/// Dispatches the calls of one socket.
pub trait Router: Clone + Send + Sync + 'static {
    /// The flow-control window of a stream, in bytes.
    const STREAM_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES;

    /// The flow-control window of a connection, in bytes.
    const CONNECTION_WINDOW_BYTES: u32 = CONNECTION_WINDOW_BYTES;

    /// The most bytes of a stream that wait to be sent.
    const SEND_BUFFER_BYTES: usize = SEND_BUFFER_BYTES;

    /// A router for the calls of one connection.
    fn for_connection(&self) -> Self {
        self.clone()
    }

    /// Prepares for the first call. The server calls this when a client has sent the preface.
    fn begin(&self, _stop: &CancellationToken) {}

    /// Answers one call. `stop` is cancelled when the daemon shuts down.
    fn route(
        &self,
        call: IncomingCall,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<Response<Body>>> + Send;
}

/// Serves the calls of gRPC connections.
#[derive(Clone)]
pub struct GrpcServer<R> {
    router: R,
    limits: Limits,
}

impl<R: Router> GrpcServer<R> {
    /// A server that dispatches calls with `router`.
    pub fn new(router: R, limits: Limits) -> Self {
        Self { router, limits }
    }

    /// Serves one connection until it ends. After `stop` the connection ends with its last call.
    pub async fn connection(mut self, mut stream: UnixStream, stop: CancellationToken) {
        self.router = self.router.for_connection();
        // A client that sends nothing takes one of the connections, so its preface has a timeout.
        let mut preface = [0; PREFACE.len()];
        match tokio::time::timeout(self.limits.message_time, stream.read_exact(&mut preface)).await
        {
            Ok(Ok(_)) if preface == *PREFACE => {}
            _ => return log::debug!("a client that does not speak HTTP/2 is disconnected"),
        }
        self.router.begin(&stop);
        let unread_time = self.limits.unread_time;
        let peer = Peer::of(&stream, &self.limits.metrics);
        let connection = ConnectionState::new(self.limits.calls, &self.limits.admission, peer);
        let stream = CoalescingStream::new(stream, PREFACE);
        let unread = self.limits.unread_data.connection();
        let stream = ThrottledStream::new(
            stream,
            Arc::clone(&connection),
            Arc::clone(&unread),
            PREFACE.len(),
        );
        let _open = self.limits.metrics.connection("grpc");
        let stopping = stop.clone();
        let state = Arc::clone(&connection);
        let service = service_fn(move |request: Request<Incoming>| {
            let request = request.map(|body| RequestBody::new(body, Arc::clone(&unread)));
            let (grpc, state, stop) = (self.clone(), Arc::clone(&state), stopping.clone());
            // The call must count before its task runs: the stream may read further calls before that.
            let guard = state.admit(header_list_bytes(request.headers()));
            async move { Ok::<_, Infallible>(grpc.answer(request, &state, stop, guard).await) }
        });
        let http = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // No gRPC client reads the date, and formatting it panics when the clock is outside the
            // supported years.
            .auto_date_header(false)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buf_size(R::SEND_BUFFER_BYTES)
            .initial_stream_window_size(R::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(R::CONNECTION_WINDOW_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(http);
        // Each tick checks the connection for replies that the client does not read.
        let mut stall_check = tokio::time::interval((unread_time / 4).min(STALL_CHECK_INTERVAL));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(e) = ended {
                        log::debug!("a gRPC connection ended: {e}");
                    }
                    return;
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    http.as_mut().graceful_shutdown();
                }
                _ = stall_check.tick() => if connection.has_stalled_reply(unread_time) {
                    return throttled_log!(Warn, "a gRPC client leaves its replies unread and is disconnected");
                }
            }
        }
    }

    /// Answers one request, also an invalid one and one whose handler panics.
    async fn answer(
        &self,
        request: Request<RequestBody>,
        connection: &Arc<ConnectionState>,
        stop: CancellationToken,
        guard: CallGuard,
    ) -> Response<Body> {
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
        if request.method() != Method::POST || !is_grpc {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let metered_call = {
            let path = request.uri().path().trim_start_matches('/');
            let (service, method) = path.split_once('/').unwrap_or((path, ""));
            self.limits.metrics.begin(connection.program(), "grpc", service, method)
        };
        let call = IncomingCall {
            request,
            connection: Arc::clone(connection),
            limits: self.limits.clone(),
        };
        // A panic drops the state of its call, and the store rolls back its transaction.
        let answer = AssertUnwindSafe(self.router.route(call, stop)).catch_unwind().await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => message::error_response(&error),
            Err(_) => message::error_response(&status::panicked()),
        };
        meter(response, metered_call, guard)
    }
}

/// One call. The server has read its headers, and not its message.
pub struct IncomingCall {
    request: Request<RequestBody>,
    connection: Arc<ConnectionState>,
    limits: Limits,
}

impl IncomingCall {
    /// `/service/method`
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The unchanged request, for forwarding.
    pub(crate) fn into_request(self) -> Request<RequestBody> {
        self.request
    }

    /// Reads the message of a call that may have to be forwarded, if it is small.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when it does not arrive in time.
    pub(crate) async fn peek(self) -> Result<PeekedCall> {
        let context = self.context();
        let (head, body) = self.request.into_parts();
        let (read, body) = message::peek(body, &self.limits).await?;
        Ok(PeekedCall { head, read, body, context, connection: self.connection })
    }

    /// The context of the call: its namespace, its client and its metadata.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the namespace header is not UTF-8.
    pub fn context(&self) -> Result<CallContext> {
        Ok(CallContext {
            namespace: namespace(&self.request)?,
            client: self.connection.client(),
            actor: self.connection.actor(),
            reply_limit: GRPC_MESSAGE,
            headers: metadata(self.request.headers()),
        })
    }

    /// The namespace header.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the header is not UTF-8.
    pub fn namespace(&self) -> Result<Option<String>> {
        namespace(&self.request)
    }

    /// The client of the call.
    pub fn client(&self) -> Client {
        self.connection.client()
    }

    /// The connection of the call.
    pub fn connection(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.connection)
    }

    /// Reads the message of a call that is not unary.
    pub async fn message<M: ApiMessage>(self) -> Result<M> {
        let client = self.client();
        let raw = message::read(self.request.into_body(), &self.limits, client).await?;
        let (is_large, requests) = (raw.is_large(), self.limits.request_memory);
        let decode = async move { raw.decode(&requests, client).await }.boxed();
        let (message, _) = if is_large { workers::offload(decode).await } else { decode.await }?;
        Ok(message)
    }

    /// Answers a unary call with the reply of `handle`.
    pub async fn unary<M, F>(
        self,
        handle: impl FnOnce(CallContext, M) -> F + Send + 'static,
    ) -> Result<Response<Body>>
    where
        M: ApiMessage,
        F: Future<Output = Result<Reply>> + Send + 'static,
    {
        let (call, client) = (self.context()?, self.client());
        let requests = self.limits.request_memory.clone();
        let answer = move |raw: RawRequest| -> BoxFuture<'static, Result<Reply>> {
            Box::pin(async move {
                let (request, _reservation) = raw.decode(&requests, client).await?;
                handle(call, request).await
            })
        };
        self.answer(Box::new(answer)).await
    }

    /// Reads the message of a unary call and replies. The code is the same for all methods. The future of
    /// `answer` keeps the future of a waiting call small: it begins when the message has been read.
    async fn answer(
        self,
        answer: Box<dyn FnOnce(RawRequest) -> BoxFuture<'static, Result<Reply>> + Send>,
    ) -> Result<Response<Body>> {
        message::with_deadline(message::deadline(&self.request), async {
            let slot = self.connection.acquire_call_slot().await;
            let client = self.connection.client();
            let raw = message::read(self.request.into_body(), &self.limits, client).await?;
            let is_large = raw.is_large();
            let answer = answer(raw);
            let Reply { message, reservation } =
                if is_large { workers::offload(answer).await? } else { answer.await? };
            Ok(message::reply(message, self.connection.track_reply(slot, reservation)))
        })
        .await
    }
}

/// A call whose message has been read, or the beginning of the message.
pub(crate) struct PeekedCall {
    head: http::request::Parts,
    read: Bytes,
    body: RequestBody,
    context: Result<CallContext>,
    connection: Arc<ConnectionState>,
}

impl PeekedCall {
    /// The context and the message of the call. `None` if the body is not exactly one small message of type
    /// `M`, or the headers are invalid.
    pub(crate) fn message<M: ApiMessage>(&self) -> Option<(&CallContext, M)> {
        let context = self.context.as_ref().ok()?;
        let message = message::whole(&self.read)?;
        Some((context, M::parse_from_bytes(message).ok()?))
    }

    /// A response with a reply of this call.
    pub(crate) fn reply(&self, Reply { message, reservation }: Reply) -> Response<Body> {
        message::reply(message, self.connection.track_reply(None, reservation))
    }

    /// Forwards the call unchanged.
    ///
    /// # Errors
    /// As for [`Upstream::forward`].
    pub(crate) async fn forward(
        self,
        upstream: &Upstream,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        upstream.forward_begun(self.head, self.read, self.body, stop).await
    }
}

/// The first namespace header.
fn namespace<B>(request: &Request<B>) -> Result<Option<String>> {
    let Some(value) = request.headers().get(NAMESPACE) else { return Ok(None) };
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
        Error::InvalidArgument(format!("the header {NAMESPACE} is not UTF-8: {value:?}"))
    })?;
    Ok(Some(value.to_owned()))
}

/// The bytes of headers as HTTP/2 counts them: 32 bytes more per header than its name and value.
fn header_list_bytes(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// The headers that the client added, without those of gRPC and HTTP.
fn metadata(headers: &http::HeaderMap) -> http::HeaderMap {
    let own = |name: &str| {
        !name.starts_with("grpc-")
            && !matches!(name, "content-type" | "te" | "user-agent" | "host" | NAMESPACE)
    };
    headers.iter().filter(|(n, _)| own(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}
