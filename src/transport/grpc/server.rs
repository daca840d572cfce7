//! gRPC: HTTP/2 connections, and the calls on them. Which call goes where is the matter of a
//! [`Handler`].

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use protobuf::MessageFull;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::log_throttle::throttled_log;
use crate::model::{Error, Result};
use crate::service::client::Client;
use crate::service::{CallContext, Reply};
use crate::transport::conn::coalesce::CoalescingStream;
use crate::transport::conn::listener::{Shutdown, wait};
use crate::transport::conn::state;
use crate::transport::conn::state::{CallGuard, ConnectionState};
use crate::transport::conn::workers;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::metered_body::meter;
use crate::transport::grpc::throttle::ThrottledStream;
use crate::transport::limits::GRPC_MESSAGE;
use crate::transport::{Limits, status};

/// The full name of the Images service.
pub const IMAGES: &str = "containerd.services.images.v1.Images";

/// The header that carries the namespace.
const NAMESPACE: &str = "containerd-namespace";

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one connection at a time. Calls of Images have a lower bound of their own; long
/// streams (Watch) must not keep calls from being accepted.
pub const MAX_STREAMS: u32 = 4096;

/// The most bytes of request headers.
pub const MAX_HEADER_LIST: u32 = 64 << 10;

/// How much of a stream, and of all streams of a connection, may be on its way unread. Little: it is
/// outside of the budget, which a large request waits for when its first bytes have come.
const WINDOW: (u32, u32) = (16 << 10, 64 << 10);

/// How many bytes of a stream may wait to be sent.
const SEND_BUFFER: usize = 400 << 10;

/// How often a connection is asked whether it lives, and how long it may take to answer. A client
/// that stops in the middle of a frame cannot answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// Answers calls, whichever they are.
pub trait Router: Clone + Send + Sync + 'static {
    /// How much of a stream, and of all streams of a connection, may be on its way unread.
    const WINDOW: (u32, u32) = WINDOW;

    /// How many bytes of a stream may wait to be sent, at least.
    const SEND_BUFFER: usize = SEND_BUFFER;

    /// A handler for one connection's calls.
    fn for_connection(&self) -> Self {
        self.clone()
    }

    /// Answers one call; `stop` turns when the daemon stops.
    fn route(
        &self,
        asked: IncomingCall,
        stop: Shutdown,
    ) -> impl Future<Output = Result<Response<Body>>> + Send;
}

/// Serves the calls of gRPC connections.
#[derive(Clone)]
pub struct GrpcServer<H> {
    handler: H,
    limits: Limits,
}

impl<H: Router> GrpcServer<H> {
    /// Has `handler` answer the calls.
    pub fn new(handler: H, limits: Limits) -> Self {
        Self { handler, limits }
    }

    /// Serves one connection until it ends, or until it has ended what it began when `stop` turns.
    pub async fn connection(mut self, mut stream: UnixStream, mut stop: Shutdown) {
        self.handler = self.handler.for_connection();
        // A client that connects and says nothing holds a place. gRPC clients speak first.
        let mut preface = [0; PREFACE.len()];
        match tokio::time::timeout(self.limits.message_time, stream.read_exact(&mut preface)).await
        {
            Ok(Ok(_)) if preface == *PREFACE => {}
            _ => return log::debug!("a client that does not speak HTTP/2 is disconnected"),
        }
        let unread_time = self.limits.unread_time;
        let client = state::client(&stream);
        let connection = ConnectionState::new(self.limits.calls, &self.limits.admission, client);
        let stream = CoalescingStream::new(stream, PREFACE);
        let stream = ThrottledStream::new(stream, Arc::clone(&connection), PREFACE.len());
        let _open = self.limits.metrics.connection("grpc");
        let stopping = stop.clone();
        let state = Arc::clone(&connection);
        let service = service_fn(move |request| {
            let (grpc, state, stop) = (self.clone(), Arc::clone(&state), stopping.clone());
            // At once, not when its task runs: what is read next depends on it.
            let place = state.admit(size(request.headers()));
            async move { Ok::<_, Infallible>(grpc.answer(request, &state, stop, place).await) }
        });
        let http = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // No gRPC client reads it, and making it panics when the clock is out of its years.
            .auto_date_header(false)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buf_size(H::SEND_BUFFER)
            .initial_stream_window_size(H::WINDOW.0)
            .initial_connection_window_size(H::WINDOW.1)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(http);
        // How often it is looked at for replies that nobody reads.
        let mut look = tokio::time::interval(unread_time / 4);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(e) = ended {
                        log::debug!("a gRPC connection ended: {e}");
                    }
                    return;
                }
                () = wait(&mut stop), if !stopping => {
                    stopping = true;
                    http.as_mut().graceful_shutdown();
                }
                _ = look.tick() => if connection.has_stalled_reply(unread_time) {
                    return throttled_log!(Warn, "a gRPC client leaves its replies unread and is disconnected");
                }
            }
        }
    }

    /// Answers one request, whatever it is and whatever happens.
    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ConnectionState>,
        stop: Shutdown,
        place: CallGuard,
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
        let call = {
            let path = request.uri().path().trim_start_matches('/');
            let (service, method) = path.split_once('/').unwrap_or((path, ""));
            self.limits.metrics.begin("grpc", service, method)
        };
        let asked = IncomingCall {
            request,
            connection: Arc::clone(connection),
            limits: self.limits.clone(),
        };
        // What a call works on is thrown away with it, or is the store's, which undoes its own.
        let answer = AssertUnwindSafe(self.handler.route(asked, stop)).catch_unwind().await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => message::error_response(&error),
            Err(_) => message::error_response(&status::panicked()),
        };
        meter(response, call, place)
    }
}

/// One call, not yet read.
pub struct IncomingCall {
    request: Request<Incoming>,
    connection: Arc<ConnectionState>,
    limits: Limits,
}

impl IncomingCall {
    /// `/service/method`
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The request as it came, to be passed on.
    pub fn into_request(self) -> Request<Incoming> {
        self.request
    }

    /// The namespace header.
    pub fn namespace(&self) -> Result<Option<String>> {
        namespace(&self.request)
    }

    /// The client that calls.
    pub fn client(&self) -> Client {
        self.connection.client()
    }

    /// The message of a call that is not unary.
    pub async fn message<M: MessageFull>(self) -> Result<M> {
        let raw = message::read(self.request.into_body(), &self.limits).await?;
        let (is_large, requests) = (raw.is_large(), self.limits.request_memory);
        let decode = async move { raw.decode(&requests).await };
        let (message, _) = if is_large { workers::offload(decode).await } else { decode.await }?;
        Ok(message)
    }

    /// Answers a call of one message by one message.
    pub async fn unary<M, F>(
        self,
        handle: impl FnOnce(CallContext, M) -> F + Send + 'static,
    ) -> Result<Response<Body>>
    where
        M: MessageFull,
        F: Future<Output = Result<Reply>> + Send + 'static,
    {
        let call = CallContext {
            namespace: namespace(&self.request)?,
            client: self.connection.client(),
            reply_limit: GRPC_MESSAGE,
            headers: metadata(self.request.headers()),
        };
        message::with_deadline(message::deadline(&self.request), async {
            let slot = self.connection.acquire_call_slot().await;
            let raw = message::read(self.request.into_body(), &self.limits).await?;
            let (is_large, requests) = (raw.is_large(), self.limits.request_memory);
            // Boxed: most of what a call takes it takes here, and those that wait for a slot or for
            // their message do without.
            let answer = Box::pin(async move {
                let (asked, _held) = raw.decode(&requests).await?;
                handle(call, asked).await
            });
            let Reply { message, hold } =
                if is_large { workers::offload(answer).await? } else { answer.await? };
            Ok(message::reply(message, self.connection.track_reply(slot, hold)))
        })
        .await
    }
}

/// The namespace header, the first if there are several.
fn namespace<B>(request: &Request<B>) -> Result<Option<String>> {
    let Some(value) = request.headers().get(NAMESPACE) else { return Ok(None) };
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
        Error::InvalidArgument(format!("the header {NAMESPACE} is not UTF-8: {value:?}"))
    })?;
    Ok(Some(value.to_owned()))
}

/// The bytes of headers, as HTTP/2 counts them: 32 for each beside its own.
fn size(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// The headers that are the client's own, and not of the protocol or of this call's frame.
fn metadata(headers: &http::HeaderMap) -> http::HeaderMap {
    let own = |name: &str| {
        !name.starts_with("grpc-")
            && !matches!(name, "content-type" | "te" | "user-agent" | "host" | NAMESPACE)
    };
    headers.iter().filter(|(n, _)| own(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}
