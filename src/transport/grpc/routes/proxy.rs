//! The router of proxy mode.
//!
//! On `containerd.sock` it forwards every call except those of Images and health, which it answers
//! itself. It also follows each Transfer. On `images.sock` it forwards only the services that clients
//! use around image names: a containerd that has this socket as a proxy plugin must not get its own
//! calls back.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, Empty};
use hyper::body::Body as _;

use crate::health::Health;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result};
use crate::proxy::images::ProxyImages;
use crate::proxy::reconcile;
use crate::service::Images;
use crate::transport::conn::listener::Shutdown;
use crate::transport::grpc::forward::upstream;
use crate::transport::grpc::forward::upstream::Upstream;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::standalone::{self, CONTAINERS};
use crate::transport::grpc::routes::unimplemented;
use crate::transport::grpc::server::{IncomingCall, Router};
use crate::transport::limits::IMAGES;

const TRANSFER: &str = "containerd.services.transfer.v1.Transfer";
const INTROSPECTION: &str = "containerd.services.introspection.v1.Introspection";

/// How long containerd may take to answer Introspection. ctr 2.x calls it before every command,
/// without a deadline, so a containerd that hangs would delay reads of image names, too.
const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The services that `images.sock` forwards.
const FORWARDED_ON_IMAGES_SOCK: [&str; 6] = [
    "containerd.services.events.v1.Events",
    INTROSPECTION,
    "containerd.services.leases.v1.Leases",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.version.v1.Version",
    TRANSFER,
];

/// Dispatches calls in proxy mode.
#[derive(Clone)]
pub struct ProxyRouter {
    proxy: ProxyImages,
    images: Arc<dyn Images>,
    health: Health,
    upstream: Arc<Upstream>,
    forwards_all: bool,
}

impl ProxyRouter {
    /// The router of `containerd.sock`: it forwards every service.
    pub fn forwards_all(proxy: ProxyImages, health: Health, upstream: Upstream) -> Self {
        Self::new(proxy, health, upstream, true)
    }

    /// The router of `images.sock`: it forwards the services around image names.
    pub fn images_only(proxy: ProxyImages, health: Health, upstream: Upstream) -> Self {
        Self::new(proxy, health, upstream, false)
    }

    fn new(proxy: ProxyImages, health: Health, upstream: Upstream, forwards_all: bool) -> Self {
        let images = Arc::new(proxy.clone());
        Self { proxy, images, health, upstream: Arc::new(upstream), forwards_all }
    }

    async fn introspection(&self, call: IncomingCall, stop: &Shutdown) -> Result<Response<Body>> {
        let answer = self.upstream.forward(call.into_request(), stop);
        tokio::time::timeout(INTROSPECTION_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!(
                "containerd did not answer within {INTROSPECTION_TIMEOUT:?}"
            )))
        })
    }

    /// Forwards a Transfer. While it runs, its namespace is not synced. The request does not name the
    /// images that a Transfer creates, so the router reconciles the namespace before it answers: the
    /// new images are in LMDB by then.
    async fn transfer(&self, call: IncomingCall, stop: &Shutdown) -> Result<Response<Body>> {
        let Ok(namespace) = Namespace::required(call.namespace()?.as_deref()) else {
            return self.upstream.forward(call.into_request(), stop).await;
        };
        let transfer = TransferGuard::begin(self.proxy.clone(), namespace);
        let (head, body) = self.upstream.forward(call.into_request(), stop).await?.into_parts();
        // An error has no body, and gRPC clients expect none.
        let is_error = body.is_end_stream();
        let whole = body
            .collect()
            .await
            .map_err(|e| Error::Unavailable(format!("containerd broke off the transfer: {e}")));
        transfer.end().await;
        let whole = whole?;
        let body = if is_error {
            message::infallible_body(Empty::new())
        } else {
            message::infallible_body(whole)
        };
        Ok(Response::from_parts(head, body))
    }
}

/// A running Transfer. Dropping the guard, when the client disconnects, ends the Transfer as well.
struct TransferGuard {
    proxy: ProxyImages,
    namespace: Namespace,
}

impl TransferGuard {
    fn begin(proxy: ProxyImages, namespace: Namespace) -> Self {
        proxy.sync_state().transfer_begins(&namespace);
        Self { proxy, namespace }
    }

    async fn end(self) {
        let (proxy, namespace) = (self.proxy.clone(), self.namespace.clone());
        drop(self);
        if let Err(e) = reconcile::reconcile(&proxy, &namespace).await {
            throttled_log!(Warn, "reconciling namespace {namespace} after a transfer: {e}");
        }
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.proxy.sync_state().transfer_ends(&self.namespace);
        self.proxy.schedule_reconcile(&self.namespace);
    }
}

impl Router for ProxyRouter {
    const STREAM_WINDOW_BYTES: u32 = upstream::STREAM_WINDOW_BYTES;

    const CONNECTION_WINDOW_BYTES: u32 = upstream::CONNECTION_WINDOW_BYTES;

    fn allows_small_frames(&self) -> bool {
        // Streams of containerd's services, of which a client may send many small messages.
        self.forwards_all
    }

    fn for_connection(&self) -> Self {
        Self { upstream: Arc::new(self.upstream.fresh()), ..self.clone() }
    }

    async fn route(&self, call: IncomingCall, stop: Shutdown) -> Result<Response<Body>> {
        let path = call.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match service {
            IMAGES => standalone::call_images(Arc::clone(&self.images), call, method).await,
            TRANSFER => self.transfer(call, &stop).await,
            HEALTH => health::answer(&self.health, call, method, stop).await,
            INTROSPECTION => self.introspection(call, &stop).await,
            _ if self.forwards_all || FORWARDED_ON_IMAGES_SOCK.contains(&service) => {
                self.upstream.forward(call.into_request(), &stop).await
            }
            CONTAINERS if method == "List" => {
                self.upstream.forward(call.into_request(), &stop).await
            }
            _ => Err(unimplemented::unimplemented(service, method)),
        }
    }
}
