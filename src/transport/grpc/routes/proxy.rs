//! The router of proxy mode.
//!
//! The router answers the calls of Images, of the catalogue and of health. On `containerd.sock` it forwards
//! every other call, except reads that it answers from containerd's files ([`local_reads`]). On
//! `images.sock` it forwards only the services that clients use in addition to Images: a containerd that
//! uses this socket as a proxy plugin must not get its own calls back.

use std::sync::Arc;
use std::time::Duration;

use http::Response;

use crate::health::Health;
use crate::model::{Error, Namespace, Result};
use crate::proxy::images::ProxyImages;
use crate::service::Images;
use crate::service::catalog::Catalog;
use crate::transport::grpc::forward::upstream;
use crate::transport::grpc::forward::upstream::Upstream;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::catalog;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::local_reads;
use crate::transport::grpc::routes::standalone::{self, CONTAINERS};
use crate::transport::grpc::routes::unimplemented;
use crate::transport::grpc::server::{IncomingCall, Router};
use crate::transport::limits::{CATALOG, IMAGES};
use tokio_util::sync::CancellationToken;

const TRANSFER: &str = "containerd.services.transfer.v1.Transfer";
const CONTENT: &str = "containerd.services.content.v1.Content";
const NAMESPACES: &str = "containerd.services.namespaces.v1.Namespaces";
const INTROSPECTION: &str = "containerd.services.introspection.v1.Introspection";

/// How long containerd may take to answer Introspection. ctr 2.x calls it before every command,
/// without a deadline, so a containerd that hangs would delay reads of image names, too.
const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The services that `images.sock` forwards.
const FORWARDED_ON_IMAGES_SOCK: [&str; 6] = [
    "containerd.services.events.v1.Events",
    INTROSPECTION,
    "containerd.services.leases.v1.Leases",
    NAMESPACES,
    "containerd.services.version.v1.Version",
    TRANSFER,
];

/// Dispatches calls in proxy mode.
#[derive(Clone)]
pub(crate) struct ProxyRouter {
    proxy: ProxyImages,
    images: Arc<dyn Images>,
    catalog: Catalog,
    health: Health,
    upstream: Arc<Upstream>,
    forwards_all: bool,
}

impl ProxyRouter {
    /// The router of `containerd.sock`: it forwards every service.
    pub(crate) fn forwards_all(
        proxy: ProxyImages,
        catalog: Catalog,
        health: Health,
        upstream: Upstream,
    ) -> Self {
        Self::new(proxy, catalog, health, upstream, true)
    }

    /// The router of `images.sock`: it forwards the services around image names.
    pub(crate) fn images_only(
        proxy: ProxyImages,
        catalog: Catalog,
        health: Health,
        upstream: Upstream,
    ) -> Self {
        Self::new(proxy, catalog, health, upstream, false)
    }

    fn new(
        proxy: ProxyImages,
        catalog: Catalog,
        health: Health,
        upstream: Upstream,
        forwards_all: bool,
    ) -> Self {
        let images = Arc::new(proxy.clone());
        Self { proxy, images, catalog, health, upstream: Arc::new(upstream), forwards_all }
    }

    async fn introspection(
        &self,
        call: IncomingCall,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        let answer = self.upstream.forward(call.into_request(), stop);
        tokio::time::timeout(INTROSPECTION_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!(
                "containerd did not answer within {INTROSPECTION_TIMEOUT:?}"
            )))
        })
    }

    /// Forwards a Transfer, and schedules a reconciliation of its namespace: not every containerd sends
    /// events of the images that a Transfer creates.
    async fn transfer(
        &self,
        call: IncomingCall,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        let namespace = Namespace::required(call.namespace()?.as_deref()).ok();
        let _end = namespace.map(|namespace| ReconcileOnDrop(self.proxy.clone(), namespace));
        // containerd sends nothing before the end of the Transfer.
        self.upstream.forward(call.into_request(), stop).await
    }

    /// Answers a read from containerd's files, or else forwards it.
    async fn read(
        &self,
        call: IncomingCall,
        method: &str,
        stop: &CancellationToken,
    ) -> Result<Response<Body>> {
        let call = call.peek().await?;
        let answer = match method {
            "Info" => local_reads::content_info(&self.proxy, &call).await,
            "Read" => local_reads::content_read(&self.proxy, &call),
            _ => local_reads::namespace(&self.proxy, &call).await,
        };
        match answer {
            Some(answer) => answer,
            None => call.forward(&self.upstream, stop).await,
        }
    }
}

/// Schedules a reconciliation when a Transfer ends, however it ends.
struct ReconcileOnDrop(ProxyImages, Namespace);

impl Drop for ReconcileOnDrop {
    fn drop(&mut self) {
        self.0.schedule_reconcile(&self.1);
    }
}

impl Router for ProxyRouter {
    const STREAM_WINDOW_BYTES: u32 = upstream::STREAM_WINDOW_BYTES;

    const CONNECTION_WINDOW_BYTES: u32 = upstream::CONNECTION_WINDOW_BYTES;

    fn for_connection(&self) -> Self {
        Self { upstream: Arc::new(self.upstream.fresh()), ..self.clone() }
    }

    fn begin(&self, stop: &CancellationToken) {
        // Of most clients the first call is one to forward: ctr's, docker's.
        if self.forwards_all {
            self.upstream.open_ahead(stop);
        }
    }

    async fn route(&self, call: IncomingCall, stop: CancellationToken) -> Result<Response<Body>> {
        let path = call.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match service {
            IMAGES => standalone::call_images(Arc::clone(&self.images), call, method).await,
            TRANSFER => self.transfer(call, &stop).await,
            CATALOG => catalog::answer(&self.catalog, call, method, stop).await,
            HEALTH => health::answer(&self.health, call, method, stop).await,
            INTROSPECTION => self.introspection(call, &stop).await,
            CONTENT if self.forwards_all && matches!(method, "Info" | "Read") => {
                self.read(call, method, &stop).await
            }
            NAMESPACES if method == "Get" => self.read(call, method, &stop).await,
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
