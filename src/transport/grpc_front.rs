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

use super::forward::{self, Line};
use super::grpc::{Asked, Handler, IMAGES};
use super::grpc_alone::{self, CONTAINERS};
use super::grpc_health::{self, HEALTH};
use super::grpc_message::{self, Body};
use super::listener::Stop;
use crate::front::health::Health;
use crate::front::images::Front;
use crate::front::resync;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result};
use crate::service::Images;

const TRANSFER: &str = "containerd.services.transfer.v1.Transfer";
const INTROSPECTION: &str = "containerd.services.introspection.v1.Introspection";

/// How long containerd may take to answer Introspection. ctr 2.x asks it before every command,
/// without a deadline: a containerd that hangs would hold up reads of image names, too.
const INTROSPECTED: Duration = Duration::from_secs(5);

/// What `images.sock` passes on.
const AROUND_IMAGES: [&str; 6] = [
    "containerd.services.events.v1.Events",
    INTROSPECTION,
    "containerd.services.leases.v1.Leases",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.version.v1.Version",
    TRANSFER,
];

/// Answers calls in front of a containerd.
#[derive(Clone)]
pub struct Before {
    front: Front,
    images: Arc<dyn Images>,
    health: Health,
    line: Arc<Line>,
    whole: bool,
}

impl Before {
    /// For `containerd.sock`: everything containerd answers.
    pub fn whole(front: Front, health: Health, line: Line) -> Self {
        Self::new(front, health, line, true)
    }

    /// For `images.sock`.
    pub fn images_only(front: Front, health: Health, line: Line) -> Self {
        Self::new(front, health, line, false)
    }

    fn new(front: Front, health: Health, line: Line, whole: bool) -> Self {
        let images = Arc::new(front.clone());
        Self { front, images, health, line: Arc::new(line), whole }
    }

    async fn introspection(&self, asked: Asked, stop: &Stop) -> Result<Response<Body>> {
        let answer = self.line.forward(asked.into_request(), stop);
        tokio::time::timeout(INTROSPECTED, answer).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("containerd did not answer within {INTROSPECTED:?}")))
        })
    }

    /// Passes a Transfer on. While it runs its namespace is not current, and before its answer is
    /// given, names that it made are here: they are not in its request, so all are read again.
    async fn transfer(&self, asked: Asked, stop: &Stop) -> Result<Response<Body>> {
        let Ok(namespace) = Namespace::required(asked.namespace()?.as_deref()) else {
            return self.line.forward(asked.into_request(), stop).await;
        };
        let transfer = Transfer::begin(self.front.clone(), namespace);
        let (head, body) = self.line.forward(asked.into_request(), stop).await?.into_parts();
        // An error has no body at all, and must be passed on without one.
        let is_error = body.is_end_stream();
        let whole = body
            .collect()
            .await
            .map_err(|e| Error::Unavailable(format!("containerd broke off the transfer: {e}")));
        transfer.end().await;
        let whole = whole?;
        let body =
            if is_error { grpc_message::own(Empty::new()) } else { grpc_message::own(whole) };
        Ok(Response::from_parts(head, body))
    }
}

/// A Transfer under way; dropped, when its client leaves, it ends all the same.
struct Transfer {
    front: Front,
    namespace: Namespace,
}

impl Transfer {
    fn begin(front: Front, namespace: Namespace) -> Self {
        front.spaces().transfer_begins(&namespace);
        Self { front, namespace }
    }

    async fn end(self) {
        let (front, namespace) = (self.front.clone(), self.namespace.clone());
        drop(self);
        if let Err(e) = resync::resync(&front, &namespace).await {
            throttled_log!(Warn, "resync of namespace {namespace} after a transfer: {e}");
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.front.spaces().transfer_ends(&self.namespace);
        self.front.want_resync(&self.namespace);
    }
}

impl Handler for Before {
    const WINDOW: (u32, u32) = forward::WINDOW;

    fn for_connection(&self) -> Self {
        Self { line: Arc::new(self.line.another()), ..self.clone() }
    }

    async fn answer(&self, asked: Asked, stop: Stop) -> Result<Response<Body>> {
        let path = asked.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match service {
            IMAGES => grpc_alone::images(Arc::clone(&self.images), asked, method).await,
            TRANSFER => self.transfer(asked, &stop).await,
            HEALTH => grpc_health::answer(&self.health, asked, method, stop).await,
            INTROSPECTION => self.introspection(asked, &stop).await,
            _ if self.whole || AROUND_IMAGES.contains(&service) => {
                self.line.forward(asked.into_request(), &stop).await
            }
            CONTAINERS if method == "List" => self.line.forward(asked.into_request(), &stop).await,
            _ => Err(grpc_alone::unknown(service, method)),
        }
    }
}
