//! The router of standalone mode: Images and the few services that clients use around it. Every other
//! call gets UNIMPLEMENTED with a message that says what this socket is: a client that needs a whole
//! containerd learns at once that it uses the wrong address.

use std::future::Future;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

use crate::api::ApiMessage;
use crate::api::version::VersionResponse;
use crate::health::Health;
use crate::model::{Error, Result};
use crate::service::catalog::Catalog;
use crate::service::codec::encode;
use crate::service::events::subscription::{MAX_PIECE, Subscription};
use crate::service::standalone::Standalone;
use crate::service::{CallContext, Images, Reply};
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::catalog;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::unimplemented::unimplemented;
use crate::transport::grpc::server::{IncomingCall, Router};
use crate::transport::limits::{CATALOG, IMAGES};
use crate::transport::status;
use tokio_util::sync::CancellationToken;

/// The service that clients ask which images are in use.
pub(crate) const CONTAINERS: &str = "containerd.services.containers.v1.Containers";

/// Dispatches calls in standalone mode.
#[derive(Clone)]
pub(crate) struct StandaloneRouter {
    standalone: Arc<Standalone>,
    images: Arc<dyn Images>,
    catalog: Catalog,
    health: Health,
}

impl StandaloneRouter {
    /// A router for the services of `standalone`, and for `catalog`.
    pub(crate) fn new(standalone: Standalone, catalog: Catalog, health: Health) -> Self {
        let images = Arc::new(standalone.local().clone());
        Self { standalone: Arc::new(standalone), images, catalog, health }
    }
}

impl Router for StandaloneRouter {
    /// One piece of an event: a subscriber that does not read has at most this much waiting data.
    const SEND_BUFFER_BYTES: usize = MAX_PIECE;

    async fn route(&self, call: IncomingCall, stop: CancellationToken) -> Result<Response<Body>> {
        dispatch(self, call, stop).await
    }
}

async fn dispatch(
    router: &StandaloneRouter,
    call: IncomingCall,
    stop: CancellationToken,
) -> Result<Response<Body>> {
    let standalone = &router.standalone;
    let path = call.path().to_owned();
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
    match (service, method) {
        (IMAGES, _) => call_images(Arc::clone(&router.images), call, method).await,
        ("containerd.services.namespaces.v1.Namespaces", _) => {
            namespaces(standalone, call, method).await
        }
        ("containerd.services.leases.v1.Leases", _) => leases(standalone, call, method).await,
        ("containerd.services.events.v1.Events", "Publish") => {
            message(standalone, call, async |standalone, c, m| standalone.publish(&c, m).await)
                .await
        }
        ("containerd.services.events.v1.Events", "Forward") => {
            message(standalone, call, async |standalone, _, m| standalone.forward(m).await).await
        }
        ("containerd.services.events.v1.Events", "Subscribe") => {
            let client = call.client();
            let subscription = standalone.subscribe(client, call.message().await?).await?;
            Ok(events(subscription, stop))
        }
        (CONTAINERS, "List") => {
            message(standalone, call, async |standalone, c, m| {
                standalone.list_containers(&c, m).await
            })
            .await
        }
        ("containerd.services.transfer.v1.Transfer", "Transfer") => {
            message(standalone, call, async |standalone, c, m| standalone.transfer(&c, m).await)
                .await
        }
        ("containerd.services.introspection.v1.Introspection", "Server") => {
            message(standalone, call, async |standalone, _, m| standalone.server(m).await).await
        }
        ("containerd.services.introspection.v1.Introspection", "Plugins") => {
            message(standalone, call, async |standalone, c, m| standalone.plugins(&c, m).await)
                .await
        }
        ("containerd.services.version.v1.Version", "Version") => {
            message(standalone, call, async |_, _, _: Empty| Ok(version())).await
        }
        (CATALOG, _) => catalog::answer(&router.catalog, call, method, stop).await,
        (HEALTH, _) => health::answer(&router.health, call, method, stop).await,
        _ => Err(unimplemented(service, method)),
    }
}

/// Answers a call of Images with `images`, in any mode.
pub(crate) async fn call_images(
    images: Arc<dyn Images>,
    call: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Get" => call.unary(async move |c, m| images.get(&c, m).await).await,
        "List" => call.unary(async move |c, m| images.list(&c, m).await).await,
        "Create" => call.unary(async move |c, m| images.create(&c, m).await).await,
        "Update" => call.unary(async move |c, m| images.update(&c, m).await).await,
        "Delete" => call.unary(async move |c, m| images.delete(&c, m).await).await,
        _ => Err(unimplemented(IMAGES, method)),
    }
}

async fn namespaces(
    standalone: &Arc<Standalone>,
    call: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Get" => {
            reply(standalone, call, async |standalone, c, m| standalone.get_namespace(&c, m).await)
                .await
        }
        "List" => {
            reply(standalone, call, async |standalone, c, m| {
                standalone.list_namespaces(&c, m).await
            })
            .await
        }
        "Create" => {
            message(standalone, call, async |standalone, call, m| {
                standalone.create_namespace(&call, m).await
            })
            .await
        }
        "Update" => {
            message(standalone, call, async |standalone, call, m| {
                standalone.update_namespace(&call, m).await
            })
            .await
        }
        "Delete" => {
            message(standalone, call, async |standalone, call, m| {
                standalone.delete_namespace(&call, m).await
            })
            .await
        }
        _ => Err(unimplemented("containerd.services.namespaces.v1.Namespaces", method)),
    }
}

async fn leases(
    standalone: &Arc<Standalone>,
    call: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Create" => {
            message(standalone, call, async |standalone, c, m| standalone.create_lease(&c, m).await)
                .await
        }
        "Delete" => {
            message(standalone, call, async |standalone, c, m| standalone.delete_lease(&c, m).await)
                .await
        }
        "List" => {
            reply(standalone, call, async |standalone, c, m| standalone.list_leases(&c, m).await)
                .await
        }
        "AddResource" => {
            message(standalone, call, async |standalone, c, m| standalone.add_resource(&c, m).await)
                .await
        }
        "DeleteResource" => {
            message(standalone, call, async |standalone, c, m| {
                standalone.delete_resource(&c, m).await
            })
            .await
        }
        "ListResources" => {
            reply(standalone, call, async |standalone, c, m| standalone.list_resources(&c, m).await)
                .await
        }
        _ => Err(unimplemented("containerd.services.leases.v1.Leases", method)),
    }
}

/// The reply of Version: the version of this program, and its name in place of a revision.
fn version() -> VersionResponse {
    VersionResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("CARGO_PKG_NAME").into(),
        ..VersionResponse::default()
    }
}

/// Answers a call whose handler returns an encoded reply with its reservation of memory.
async fn reply<Q, F>(
    standalone: &Arc<Standalone>,
    call: IncomingCall,
    handle: impl FnOnce(Arc<Standalone>, CallContext, Q) -> F + Send + 'static,
) -> Result<Response<Body>>
where
    Q: ApiMessage,
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let standalone = Arc::clone(standalone);
    call.unary(move |call, request| handle(standalone, call, request)).await
}

/// Answers a call whose handler returns a message that is small, or no larger than the request. This
/// function encodes the message, checks its size and reserves its memory.
async fn message<Q, R, F>(
    standalone: &Arc<Standalone>,
    call: IncomingCall,
    handle: impl FnOnce(Arc<Standalone>, CallContext, Q) -> F + Send + 'static,
) -> Result<Response<Body>>
where
    Q: ApiMessage,
    R: Message,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let standalone = Arc::clone(standalone);
    let reply = async move |call: CallContext, request| -> Result<Reply> {
        let (client, limit) = (call.client, call.reply_limit);
        let message = encode(&handle(Arc::clone(&standalone), call, request).await?)?;
        if message.len() > limit {
            return Err(Error::message_too_large(message.len(), limit));
        }
        standalone.local().reserve_reply(client, message).await
    };
    call.unary(reply).await
}

/// A stream of events. It ends when the subscriber disconnects or falls behind, and when the daemon
/// shuts down.
fn events(subscription: Subscription, stop: CancellationToken) -> Response<Body> {
    let frames = stream::unfold(Some((subscription, stop)), |open| async {
        let (mut subscription, stop) = open?;
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::shutting_down()),
            event = subscription.next() => event,
        };
        Some(match event {
            Ok(piece) => (Frame::data(message::piece(piece)), Some((subscription, stop))),
            Err(why) => (Frame::trailers(status::trailers(&why)), None),
        })
    });
    message::response(message::infallible_body(StreamBody::new(frames.map(Ok))))
}
