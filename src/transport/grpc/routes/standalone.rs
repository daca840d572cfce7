//! Which call of `images.sock` goes where, when no containerd stands behind: Images and the little
//! that clients call around it. Everything else is UNIMPLEMENTED, with a sentence that says what
//! this socket is: clients meant for a whole containerd should learn at once that they ask the
//! wrong address.

use std::future::Future;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageFull};

use crate::api::version::VersionResponse;
use crate::health::Health;
use crate::model::{Error, Result};
use crate::service::codec::encode;
use crate::service::events::subscription::{MAX_PIECE, Subscription};
use crate::service::standalone::Standalone;
use crate::service::{CallContext, Images, Reply};
use crate::transport::conn::listener::{Shutdown, wait};
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::unimplemented::unimplemented;
use crate::transport::grpc::server::{IMAGES, IncomingCall, Router};
use crate::transport::status;

/// The service that clients ask which images are in use.
pub const CONTAINERS: &str = "containerd.services.containers.v1.Containers";

/// Answers the calls.
#[derive(Clone)]
pub struct StandaloneRouter {
    alone: Arc<Standalone>,
    images: Arc<dyn Images>,
    health: Health,
}

impl StandaloneRouter {
    /// Has `alone` answer them.
    pub fn new(alone: Standalone, health: Health) -> Self {
        let images = Arc::new(alone.local().clone());
        Self { alone: Arc::new(alone), images, health }
    }
}

impl Router for StandaloneRouter {
    /// A piece of an event: of a subscriber that does not read no more waits here.
    const SEND_BUFFER: usize = MAX_PIECE;

    async fn route(&self, asked: IncomingCall, stop: Shutdown) -> Result<Response<Body>> {
        dispatch(self, asked, stop).await
    }
}

async fn dispatch(
    table: &StandaloneRouter,
    asked: IncomingCall,
    stop: Shutdown,
) -> Result<Response<Body>> {
    let alone = &table.alone;
    let path = asked.path().to_owned();
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
    match (service, method) {
        (IMAGES, _) => call(Arc::clone(&table.images), asked, method).await,
        ("containerd.services.namespaces.v1.Namespaces", _) => {
            namespaces(alone, asked, method).await
        }
        ("containerd.services.leases.v1.Leases", _) => leases(alone, asked, method).await,
        ("containerd.services.events.v1.Events", "Publish") => {
            message(alone, asked, async |alone, c, m| alone.publish(&c, m).await).await
        }
        ("containerd.services.events.v1.Events", "Forward") => {
            message(alone, asked, async |alone, _, m| alone.forward(m).await).await
        }
        ("containerd.services.events.v1.Events", "Subscribe") => {
            let client = asked.client();
            let subscription = alone.subscribe(client, asked.message().await?).await?;
            Ok(events(subscription, stop))
        }
        (CONTAINERS, "List") => {
            message(alone, asked, async |alone, c, m| alone.list_containers(&c, m).await).await
        }
        ("containerd.services.transfer.v1.Transfer", "Transfer") => {
            message(alone, asked, async |alone, c, m| alone.transfer(&c, m).await).await
        }
        ("containerd.services.introspection.v1.Introspection", "Server") => {
            message(alone, asked, async |alone, _, m| alone.server(m).await).await
        }
        ("containerd.services.introspection.v1.Introspection", "Plugins") => {
            message(alone, asked, async |alone, c, m| alone.plugins(&c, m).await).await
        }
        ("containerd.services.version.v1.Version", "Version") => {
            message(alone, asked, async |_, _, _: Empty| Ok(version())).await
        }
        (HEALTH, _) => health::answer(&table.health, asked, method, stop).await,
        _ => Err(unimplemented(service, method)),
    }
}

/// A call of Images, whoever answers it.
pub async fn call(
    images: Arc<dyn Images>,
    asked: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Get" => asked.unary(async move |c, m| images.get(&c, m).await).await,
        "List" => asked.unary(async move |c, m| images.list(&c, m).await).await,
        "Create" => asked.unary(async move |c, m| images.create(&c, m).await).await,
        "Update" => asked.unary(async move |c, m| images.update(&c, m).await).await,
        "Delete" => asked.unary(async move |c, m| images.delete(&c, m).await).await,
        _ => Err(unimplemented(IMAGES, method)),
    }
}

async fn namespaces(
    alone: &Arc<Standalone>,
    asked: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Get" => reply(alone, asked, async |alone, c, m| alone.get_namespace(&c, m).await).await,
        "List" => reply(alone, asked, async |alone, c, m| alone.list_namespaces(&c, m).await).await,
        "Create" => {
            message(alone, asked, async |alone, _, m| alone.create_namespace(m).await).await
        }
        "Update" => {
            message(alone, asked, async |alone, _, m| alone.update_namespace(m).await).await
        }
        "Delete" => {
            message(alone, asked, async |alone, _, m| alone.delete_namespace(m).await).await
        }
        _ => Err(unimplemented("containerd.services.namespaces.v1.Namespaces", method)),
    }
}

async fn leases(
    alone: &Arc<Standalone>,
    asked: IncomingCall,
    method: &str,
) -> Result<Response<Body>> {
    match method {
        "Create" => {
            message(alone, asked, async |alone, c, m| alone.create_lease(&c, m).await).await
        }
        "Delete" => {
            message(alone, asked, async |alone, c, m| alone.delete_lease(&c, m).await).await
        }
        "List" => reply(alone, asked, async |alone, c, m| alone.list_leases(&c, m).await).await,
        "AddResource" => {
            message(alone, asked, async |alone, c, m| alone.add_resource(&c, m).await).await
        }
        "DeleteResource" => {
            message(alone, asked, async |alone, c, m| alone.delete_resource(&c, m).await).await
        }
        "ListResources" => {
            reply(alone, asked, async |alone, c, m| alone.list_resources(&c, m).await).await
        }
        _ => Err(unimplemented("containerd.services.leases.v1.Leases", method)),
    }
}

/// What Version answers: this program's version, and its name where containerd has its revision.
fn version() -> VersionResponse {
    VersionResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("CARGO_PKG_NAME").into(),
        ..VersionResponse::default()
    }
}

/// A call whose handler gives the reply as bytes that hold their share of the budget.
async fn reply<Q, F>(
    alone: &Arc<Standalone>,
    asked: IncomingCall,
    handle: impl FnOnce(Arc<Standalone>, CallContext, Q) -> F + Send + 'static,
) -> Result<Response<Body>>
where
    Q: MessageFull,
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let alone = Arc::clone(alone);
    asked.unary(move |call, request| handle(alone, call, request)).await
}

/// A call whose handler gives a message that is no larger than its request, or small: encoded, measured,
/// with its share of the budget.
async fn message<Q, R, F>(
    alone: &Arc<Standalone>,
    asked: IncomingCall,
    handle: impl FnOnce(Arc<Standalone>, CallContext, Q) -> F + Send + 'static,
) -> Result<Response<Body>>
where
    Q: MessageFull,
    R: Message,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let alone = Arc::clone(alone);
    let reply = async move |call: CallContext, request| -> Result<Reply> {
        let limit = call.reply_limit;
        let message = encode(&handle(Arc::clone(&alone), call, request).await?)?;
        if message.len() > limit {
            return Err(Error::message_too_large(message.len(), limit));
        }
        alone.local().reserve_reply(message).await
    };
    asked.unary(reply).await
}

/// A stream of events, until the subscriber leaves, falls behind, or the daemon stops.
fn events(subscription: Subscription, stop: Shutdown) -> Response<Body> {
    let frames = stream::unfold(Some((subscription, stop)), |open| async {
        let (mut subscription, mut stop) = open?;
        let event = tokio::select! {
            biased;
            () = wait(&mut stop) => Err(Error::shutting_down()),
            event = subscription.next() => event,
        };
        Some(match event {
            Ok(piece) => (Frame::data(message::piece(piece)), Some((subscription, stop))),
            Err(why) => (Frame::trailers(status::trailers(&why)), None),
        })
    });
    message::response(message::infallible_body(StreamBody::new(frames.map(Ok))))
}
