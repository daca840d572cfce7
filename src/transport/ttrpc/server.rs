//! ttrpc: connections of shims, guests and small clients, for Images,
//! for the catalogue, and for forwarding events.
//!
//! The library does framing and dispatch. Each connection has a library server of its own, so a call
//! knows its connection, and releases its reservations when its reply is written.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use go_compat::quote::quote;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{MethodHandler, Server, Service, TtrpcContext};

use crate::api::ApiMessage;
use crate::api::events::ForwardRequest;
use crate::limits::decoded_size;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Result};
use crate::service::catalog::Catalog;
use crate::service::codec::{encode, required};
use crate::service::events::Exchange;
use crate::service::{CallContext, Images, Reply};
use crate::transport::conn::state::{ConnectionState, Peer};
use crate::transport::conn::workers;
use crate::transport::limits::{CATALOG, IMAGES, OFFLOAD_THRESHOLD};
use crate::transport::ttrpc::guard::GuardedStream;
use crate::transport::{Limits, status};
use tokio_util::sync::CancellationToken;

/// The metadata key that carries the namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// The metadata key by which the plugin in `containerd-plugin/` names its containerd's database.
const DATABASE: &str = "containerd-database";

/// containerd's service for the events of shims.
const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";

/// The largest message of a reply, in bytes: a frame carries 4 MiB, and some bytes go to the
/// envelope around the message.
pub(crate) const MAX_REPLY: usize = ttrpc::proto::MESSAGE_LENGTH_MAX - 16;

/// The log target of the library whose trace lines contain whole messages.
pub(crate) const PAYLOAD_LOG_TARGET: &str = "ttrpc::asynchronous::connection";

/// Serves the calls of ttrpc connections.
#[derive(Clone)]
pub struct TtrpcServer {
    images: Arc<dyn Images>,
    catalog: Catalog,
    events: Option<Exchange>,
    limits: Limits,
}

impl TtrpcServer {
    /// Serves `images` and `catalog`, and passes forwarded events to `events`. Without `events` the server
    /// has no Events service.
    pub fn new(
        images: Arc<dyn Images>,
        catalog: Catalog,
        events: Option<Exchange>,
        limits: Limits,
    ) -> Self {
        Self { images, catalog, events, limits }
    }

    /// Serves one connection until it ends. After `stop` the connection ends with its last call.
    pub async fn connection(self, stream: UnixStream, stop: CancellationToken) {
        let peer = Peer::of(&stream, &self.limits.metrics);
        let connection = ConnectionState::new(self.limits.calls, &self.limits.admission, peer);
        let _open = self.limits.metrics.connection("ttrpc");
        let (end, mut ended) = oneshot::channel();
        let socket = GuardedStream::new(stream, Arc::clone(&connection), &self.limits, end);
        let listener = Listener::new(stream::once(async { Ok(socket) }));
        let mut server = Server::new()
            .add_listener(listener)
            .register_service(self.services(&connection, &stop));
        if let Err(e) = server.start().await {
            return throttled_log!(Error, "a ttrpc connection cannot be served: {e}");
        }
        // The guard never sends on `end`. It drops `end` when the connection closes.
        tokio::select! {
            _ = &mut ended => return,
            () = stop.cancelled() => {}
        }
        server.disconnect().await;
        let _ = ended.await;
    }
}

impl TtrpcServer {
    fn services(
        &self,
        connection: &Arc<ConnectionState>,
        stop: &CancellationToken,
    ) -> HashMap<String, Service> {
        let service = |methods: &[(&str, Method)]| {
            let handler = |(name, method): &(&str, Method)| {
                let handler = MethodHandlerImpl {
                    server: self.clone(),
                    connection: Arc::clone(connection),
                    stop: stop.clone(),
                    method: *method,
                };
                ((*name).to_owned(), Box::new(handler) as Box<dyn MethodHandler + Send + Sync>)
            };
            Service { methods: methods.iter().map(handler).collect(), streams: HashMap::new() }
        };
        let images = (IMAGES.to_owned(), service(IMAGES_METHODS));
        let catalog = (CATALOG.to_owned(), service(CATALOG_METHODS));
        let forward = &[("Forward", Method::Forward)];
        let events = self.events.is_some().then(|| (EVENTS.to_owned(), service(forward)));
        events.into_iter().chain([images, catalog]).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Get,
    List,
    Create,
    Update,
    Delete,
    Forward,
    Head,
    Changes,
    History,
    Undo,
    Page,
    Count,
    Apply,
}

const IMAGES_METHODS: &[(&str, Method)] = &[
    ("Get", Method::Get),
    ("List", Method::List),
    ("Create", Method::Create),
    ("Update", Method::Update),
    ("Delete", Method::Delete),
];

/// The two streams are gRPC's only: the library queues the messages of a stream without limit.
const CATALOG_METHODS: &[(&str, Method)] = &[
    ("Head", Method::Head),
    ("Changes", Method::Changes),
    ("History", Method::History),
    ("Undo", Method::Undo),
    ("List", Method::Page),
    ("Count", Method::Count),
    ("Apply", Method::Apply),
];

/// One method on one connection.
#[derive(Clone)]
struct MethodHandlerImpl {
    server: TtrpcServer,
    connection: Arc<ConnectionState>,
    stop: CancellationToken,
    method: Method,
}

impl MethodHandlerImpl {
    async fn answer(&self, context: &TtrpcContext, payload: Vec<u8>) -> Result<Vec<u8>> {
        let metadata = |key| context.metadata.get(key).and_then(|values| values.first()).cloned();
        if let Some(database) = metadata(DATABASE) {
            self.check_database(&database)?;
        }
        let namespace = metadata(NAMESPACE);
        let (client, headers) = (self.connection.client(), http::HeaderMap::new());
        let actor = self.connection.actor();
        let call = CallContext { namespace, client, actor, reply_limit: MAX_REPLY, headers };
        let stream = context.mh.stream_id;
        if payload.len() <= OFFLOAD_THRESHOLD {
            return self.run(call, stream, &payload).await;
        }
        let handler = self.clone();
        workers::offload(async move { handler.run(call, stream, &payload).await }.boxed()).await
    }

    /// Refuses a call of another containerd's plugin: these images are not the ones that it asks for.
    fn check_database(&self, path: &str) -> Result<()> {
        if self.server.images.are_of_database(Path::new(path)) {
            return Ok(());
        }
        Err(Error::FailedPrecondition(format!(
            "this daemon does not read containerd's database {}: start it with --containerd and the \
             socket of that containerd, as a user that can read the database",
            quote(path)
        )))
    }

    /// Runs the method. Boxed, so that its code is in the program once for small and large requests.
    fn run<'a>(
        &'a self,
        call: CallContext,
        stream: u32,
        payload: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.run_method(call, stream, payload).boxed()
    }

    async fn run_method(&self, call: CallContext, stream: u32, payload: &[u8]) -> Result<Vec<u8>> {
        let (images, catalog) = (&self.server.images, &self.server.catalog);
        let Reply { message, reservation } = match self.method {
            Method::Get => images.get(&call, self.parse(stream, payload).await?).await,
            Method::List => images.list(&call, self.parse(stream, payload).await?).await,
            Method::Create => images.create(&call, self.parse(stream, payload).await?).await,
            Method::Update => images.update(&call, self.parse(stream, payload).await?).await,
            Method::Delete => images.delete(&call, self.parse(stream, payload).await?).await,
            Method::Head => catalog.head(&call, self.parse(stream, payload).await?).await,
            Method::Changes => {
                let request = self.parse(stream, payload).await?;
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => Err(Error::shutting_down()),
                    reply = catalog.changes(&call, request) => reply,
                }
            }
            Method::History => catalog.history(&call, self.parse(stream, payload).await?).await,
            Method::Undo => catalog.undo(&call, self.parse(stream, payload).await?).await,
            Method::Page => catalog.list(&call, self.parse(stream, payload).await?).await,
            Method::Count => catalog.count(&call, self.parse(stream, payload).await?).await,
            Method::Apply => {
                let results = catalog.apply(&call, self.parse(stream, payload).await?).await?;
                catalog.sized_reply(&call, encode(&status::apply_response(results))?).await
            }
            Method::Forward => {
                let request: ForwardRequest = self.parse(stream, payload).await?;
                let envelope = required(request.envelope, "ForwardRequest.envelope")?;
                let events = self.server.events.as_ref();
                events.map_or(Ok(()), |e| e.forward(envelope)).map(|()| Reply::default())
            }
        }?;
        self.connection.attach_reply(stream, reservation);
        Ok(message)
    }

    /// Decodes the request on `stream`, and reserves its memory.
    async fn parse<M: ApiMessage>(&self, stream: u32, payload: &[u8]) -> Result<M> {
        self.reserve(stream, payload.len(), decoded_size::decoded_size::<M>(payload)?).await;
        M::parse_from_bytes(payload)
            .map_err(|e| Error::InvalidArgument(format!("the request is no {}: {e}", M::NAME)))
    }

    /// Reserves the memory of the request on `stream`, which takes `size` bytes when decoded.
    async fn reserve(&self, stream: u32, encoded: usize, size: usize) {
        // A large request has its reservation since the stream read its head.
        if !self.connection.shrink(stream, encoded + size) {
            let client = self.connection.client();
            let reservation = self.server.limits.request_memory.reserve(client, size).await;
            self.connection.attach_request(stream, reservation);
        }
    }
}

#[async_trait]
impl MethodHandler for MethodHandlerImpl {
    async fn handler(
        &self,
        context: TtrpcContext,
        request: ttrpc::Request,
    ) -> ttrpc::Result<ttrpc::Response> {
        let (metrics, program) = (&self.server.limits.metrics, self.connection.program());
        let mut call = metrics.begin(program, "ttrpc", &request.service, &request.method);
        // A panic drops the state of its call, and the store rolls back its transaction.
        let answer = AssertUnwindSafe(self.answer(&context, request.payload)).catch_unwind().await;
        let mut response = ttrpc::Response::new();
        match answer.unwrap_or_else(|_| Err(status::panicked())) {
            Ok(message) => {
                call.set_code(0);
                response.payload = message;
            }
            Err(error) => {
                call.set_code(status::code(&error) as i32);
                response.status = Some(status::ttrpc(&error)).into();
            }
        }
        Ok(response)
    }
}
