//! The router of `readonly.sock`: image names for clients that must not change anything, such as scanners
//! and monitoring. It answers Get and List of Images, the reading methods of the catalogue, and health. It
//! answers every other call with PERMISSION_DENIED, without reading the message, whether the method exists
//! or not.
//!
//! It also answers Server of Introspection, which identifies the daemon: ctr 2.x calls it before
//! every command, and warns when the call fails.

use std::sync::Arc;

use http::Response;

use crate::health::Health;
use crate::model::{Error, Result};
use crate::service::catalog::Catalog;
use crate::service::codec::encode;
use crate::service::{Images, Reply, introspection};
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::catalog;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::standalone;
use crate::transport::grpc::server::{IncomingCall, Router};
use crate::transport::limits::{CATALOG, IMAGES};
use tokio_util::sync::CancellationToken;

/// Dispatches the calls that only read.
#[derive(Clone)]
pub(crate) struct ReadOnlyRouter {
    images: Arc<dyn Images>,
    catalog: Catalog,
    health: Health,
    uuid: Arc<str>,
}

impl ReadOnlyRouter {
    /// A router that reads `images` and `catalog`. `uuid` is that of the store.
    pub(crate) fn new(
        images: Arc<dyn Images>,
        catalog: Catalog,
        health: Health,
        uuid: &str,
    ) -> Self {
        Self { images, catalog, health, uuid: uuid.into() }
    }
}

impl Router for ReadOnlyRouter {
    async fn route(&self, call: IncomingCall, stop: CancellationToken) -> Result<Response<Body>> {
        let path = call.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match (service, method) {
            (IMAGES, "Get" | "List") => {
                standalone::call_images(Arc::clone(&self.images), call, method).await
            }
            (CATALOG, _) if catalog::READ_METHODS.contains(&method) => {
                catalog::answer(&self.catalog, call, method, stop).await
            }
            (HEALTH, _) => health::answer(&self.health, call, method, stop).await,
            ("containerd.services.introspection.v1.Introspection", "Server") => {
                let uuid = Arc::clone(&self.uuid);
                let server = async move |_, _: protobuf::well_known_types::empty::Empty| {
                    let message = encode(&introspection::server(&uuid))?;
                    Ok(Reply { message, reservation: None })
                };
                call.unary(server).await
            }
            _ => Err(Error::PermissionDenied(format!(
                "{method} of service {service} is refused: this socket is for reading image names \
                 only (Get and List of {IMAGES}, what reads of {CATALOG}, and {HEALTH}); for all else \
                 use another socket of lmdb-images, or containerd's"
            ))),
        }
    }
}
