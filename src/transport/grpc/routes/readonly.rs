//! `readonly.sock`: image names for those who must not change anything, such as scanners and
//! monitoring. Get, List and health; all else is PERMISSION_DENIED, whether it exists elsewhere or
//! not, and is never looked at.
//!
//! Introspection's Server is answered too, which says who answers: ctr 2.x asks it before every
//! command, and warns when it gets no answer.

use std::sync::Arc;

use http::Response;

use crate::health::Health;
use crate::model::{Error, Result};
use crate::service::codec::encode;
use crate::service::{Images, Reply, introspection};
use crate::transport::conn::listener::Shutdown;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::health;
use crate::transport::grpc::routes::health::HEALTH;
use crate::transport::grpc::routes::standalone;
use crate::transport::grpc::server::{IMAGES, IncomingCall, Router};

/// Answers the calls that only read.
#[derive(Clone)]
pub struct ReadOnlyRouter {
    images: Arc<dyn Images>,
    health: Health,
    uuid: Arc<str>,
}

impl ReadOnlyRouter {
    /// Reads `images`, of the store with that UUID.
    pub fn new(images: Arc<dyn Images>, health: Health, uuid: &str) -> Self {
        Self { images, health, uuid: uuid.into() }
    }
}

impl Router for ReadOnlyRouter {
    async fn route(&self, asked: IncomingCall, stop: Shutdown) -> Result<Response<Body>> {
        let path = asked.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match (service, method) {
            (IMAGES, "Get" | "List") => {
                standalone::call(Arc::clone(&self.images), asked, method).await
            }
            (HEALTH, _) => health::answer(&self.health, asked, method, stop).await,
            ("containerd.services.introspection.v1.Introspection", "Server") => {
                let uuid = Arc::clone(&self.uuid);
                let server = async move |_, _: protobuf::well_known_types::empty::Empty| {
                    let message = encode(&introspection::server(&uuid))?;
                    Ok(Reply { message, hold: None })
                };
                asked.unary(server).await
            }
            _ => Err(Error::PermissionDenied(format!(
                "{method} of service {service} is refused: this socket is for reading image names \
                 only (Get and List of {IMAGES}, and {HEALTH}); for all else use another socket of \
                 lmdb-images, or containerd's"
            ))),
        }
    }
}
