//! Which call goes where, with a containerd behind.
//!
//! On `containerd.sock` every call is passed on, but for Images and health, which are answered here,
//! and Transfer, which is watched. On `images.sock` only what clients call around image names is passed
//! on: containerd, where this socket is registered as a proxy plugin, must not get its own calls
//! back.

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
use crate::transport::grpc::server::{IMAGES, IncomingCall, Router};

const TRANSFER: &str = "containerd.services.transfer.v1.Transfer";
const INTROSPECTION: &str = "containerd.services.introspection.v1.Introspection";

/// How long containerd may take to answer Introspection. ctr 2.x asks it before every command,
/// without a deadline: a containerd that hangs would hold up reads of image names, too.
const INTROSPECTED: Duration = Duration::from_secs(5);

/// What `images.sock` passes on.
const FORWARDED_ON_IMAGES_SOCK: [&str; 6] = [
    "containerd.services.events.v1.Events",
    INTROSPECTION,
    "containerd.services.leases.v1.Leases",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.version.v1.Version",
    TRANSFER,
];

/// Answers calls in front of a containerd.
#[derive(Clone)]
pub struct ProxyRouter {
    front: ProxyImages,
    images: Arc<dyn Images>,
    health: Health,
    line: Arc<Upstream>,
    whole: bool,
}

impl ProxyRouter {
    /// For `containerd.sock`: everything containerd answers.
    pub fn forwards_all(front: ProxyImages, health: Health, line: Upstream) -> Self {
        Self::new(front, health, line, true)
    }

    /// For `images.sock`.
    pub fn images_only(front: ProxyImages, health: Health, line: Upstream) -> Self {
        Self::new(front, health, line, false)
    }

    fn new(front: ProxyImages, health: Health, line: Upstream, whole: bool) -> Self {
        let images = Arc::new(front.clone());
        Self { front, images, health, line: Arc::new(line), whole }
    }

    async fn introspection(&self, asked: IncomingCall, stop: &Shutdown) -> Result<Response<Body>> {
        let answer = self.line.forward(asked.into_request(), stop);
        tokio::time::timeout(INTROSPECTED, answer).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("containerd did not answer within {INTROSPECTED:?}")))
        })
    }

    /// Passes a Transfer on. While it runs its namespace is not current, and before its answer is
    /// given, names that it made are here: they are not in its request, so all are read again.
    async fn transfer(&self, asked: IncomingCall, stop: &Shutdown) -> Result<Response<Body>> {
        let Ok(namespace) = Namespace::required(asked.namespace()?.as_deref()) else {
            return self.line.forward(asked.into_request(), stop).await;
        };
        let transfer = TransferGuard::begin(self.front.clone(), namespace);
        let (head, body) = self.line.forward(asked.into_request(), stop).await?.into_parts();
        // An error has no body at all, and must be passed on without one.
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

/// A Transfer under way; dropped, when its client leaves, it ends all the same.
struct TransferGuard {
    front: ProxyImages,
    namespace: Namespace,
}

impl TransferGuard {
    fn begin(front: ProxyImages, namespace: Namespace) -> Self {
        front.sync_state().transfer_begins(&namespace);
        Self { front, namespace }
    }

    async fn end(self) {
        let (front, namespace) = (self.front.clone(), self.namespace.clone());
        drop(self);
        if let Err(e) = reconcile::reconcile(&front, &namespace).await {
            throttled_log!(Warn, "resync of namespace {namespace} after a transfer: {e}");
        }
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.front.sync_state().transfer_ends(&self.namespace);
        self.front.schedule_reconcile(&self.namespace);
    }
}

impl Router for ProxyRouter {
    const WINDOW: (u32, u32) = upstream::WINDOW_BYTES;

    fn for_connection(&self) -> Self {
        Self { line: Arc::new(self.line.fresh()), ..self.clone() }
    }

    async fn route(&self, asked: IncomingCall, stop: Shutdown) -> Result<Response<Body>> {
        let path = asked.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match service {
            IMAGES => standalone::call(Arc::clone(&self.images), asked, method).await,
            TRANSFER => self.transfer(asked, &stop).await,
            HEALTH => health::answer(&self.health, asked, method, stop).await,
            INTROSPECTION => self.introspection(asked, &stop).await,
            _ if self.whole || FORWARDED_ON_IMAGES_SOCK.contains(&service) => {
                self.line.forward(asked.into_request(), &stop).await
            }
            CONTAINERS if method == "List" => self.line.forward(asked.into_request(), &stop).await,
            _ => Err(unimplemented::unimplemented(service, method)),
        }
    }
}
