//! The operations of containerd's services on the local store.
//!
//! - [`images`], [`namespaces`], [`leases`]: the operations inside a transaction
//! - [`catalog`]: pages, counts and batches of images, and the changes of the past
//! - [`events`]: the events of changes, for subscribers
//! - [`gc`]: removes expired images and leases
//! - [`transfer`], [`introspection`]: the part of these services that needs no content
//! - [`local`]: Images as an async service, over the synchronous store
//! - [`standalone`]: the services beside Images, in a daemon without a containerd
//! - [`pool`]: the threads for long work, with turns for clients; [`cancel`]: its deadline
//! - [`reply`]: builds a reply within its reservation; [`codec`]: messages to bytes
//!
//! This module knows no transport and no network: a request is a decoded message, a reply the encoded
//! bytes of its message.

pub mod cancel;
pub mod catalog;
pub mod codec;
pub(crate) mod containers;
pub(crate) mod events;
pub mod gc;
pub mod images;
pub(crate) mod import;
pub(crate) mod introspection;
pub(crate) mod leases;
pub mod local;
pub(crate) mod namespaces;
pub(crate) mod pool;
pub(crate) mod reply;
pub mod standalone;
pub(crate) mod transfer;

use std::path::Path;

use async_trait::async_trait;

use crate::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use crate::limits::client::Client;
use crate::limits::memory::Reservation;
use crate::model::{Namespace, Result};
use crate::store::{Actor, Cause};

/// The header that carries the lease.
const LEASE: &str = "containerd-lease";

/// The context of a call: everything beside its message.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The namespace header, unchecked, if the client sent one.
    pub namespace: Option<String>,
    /// The client of the call.
    pub client: Client,
    /// The process at the other end, for the log of changes.
    pub actor: Actor,
    /// The largest reply of the transport, in bytes.
    pub reply_limit: usize,
    /// The other headers of the client, such as a lease. They are forwarded with the call.
    pub headers: http::HeaderMap,
}

impl CallContext {
    /// The lease of the call. Only gRPC has a header for it.
    pub fn lease(&self) -> Option<String> {
        let id = self.headers.get(LEASE)?;
        // No lease has an id that is no text.
        Some(String::from_utf8_lossy(id.as_bytes()).into_owned())
    }

    /// The cause of a change that the call makes, for the log of changes.
    pub fn cause(&self) -> Cause {
        Cause::client(self.actor.clone())
    }

    /// The namespace of the call. A call without a valid one is refused.
    pub fn namespace(&self) -> Result<Namespace> {
        Namespace::required(self.namespace.as_deref())
    }
}

/// An encoded reply.
#[derive(Debug, Default)]
pub struct Reply {
    /// The bytes of the message.
    pub message: Vec<u8>,
    /// The reservation of a large message. The transport keeps it until the message is sent.
    pub reservation: Option<Reservation>,
}

/// containerd's Images service. The local store is one implementation, the proxy in front of a containerd
/// another. Transports know only this trait.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Whether these are the images of the containerd whose database lies at `path`.
    fn are_of_database(&self, _path: &Path) -> bool {
        false
    }
    /// The image of that name. Returns a `GetImageResponse`.
    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply>;
    /// The images that match any of the filters, in byte order of names. Returns a
    /// `ListImagesResponse`.
    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply>;
    /// Creates an image. Returns a `CreateImageResponse`.
    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply>;
    /// Changes an image. Returns an `UpdateImageResponse`.
    async fn update(&self, call: &CallContext, request: UpdateImageRequest) -> Result<Reply>;
    /// Removes an image. Returns `google.protobuf.Empty`.
    async fn delete(&self, call: &CallContext, request: DeleteImageRequest) -> Result<Reply>;
}
