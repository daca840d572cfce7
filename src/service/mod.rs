//! What the requests mean: the operations of containerd's services on the local store.
//!
//! - [`images`], [`namespaces`], [`leases`]: the operations inside a transaction
//! - [`catalog`]: pages, counts and batches of images, and the changes of the past
//! - [`events`]: what happened, for all subscribers
//! - [`gc`]: removing what has expired
//! - [`transfer`], [`introspection`]: what is offered of these services
//! - [`local`]: Images as an async service; where async code meets the synchronous store
//! - [`standalone`]: the services beside it, when no containerd stands behind
//! - [`pool`]: the threads on which long work runs, client by client; [`cancel`]: for how long
//! - [`reply`]: a reply that is built within its reservation; [`codec`]: messages to bytes
//!
//! No transport and no network: a request comes in as its message, an answer leaves as the
//! encoded bytes of its message.

pub mod cancel;
pub mod catalog;
pub mod codec;
pub mod containers;
pub mod events;
pub mod gc;
pub mod images;
pub mod import;
pub mod introspection;
pub mod leases;
pub mod local;
pub(crate) mod namespaces;
pub(crate) mod pool;
pub mod reply;
pub mod standalone;
pub mod transfer;

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

/// What a call brings along beside its message.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The namespace header as it came, if it came.
    pub namespace: Option<String>,
    /// Where it comes from.
    pub client: Client,
    /// The process at the other end, for the log of changes.
    pub actor: Actor,
    /// The largest message, in bytes, that the transport can carry back.
    pub reply_limit: usize,
    /// What else the client sent along: a lease, say. Whoever passes the call on passes this on.
    pub headers: http::HeaderMap,
}

impl CallContext {
    /// The lease that the call runs under. Only gRPC has a header for it.
    pub fn lease(&self) -> Option<String> {
        let id = self.headers.get(LEASE)?;
        // An id that is no text is of no lease.
        Some(String::from_utf8_lossy(id.as_bytes()).into_owned())
    }

    /// Why a change is made that the call asks for.
    pub fn cause(&self) -> Cause {
        Cause::client(self.actor.clone())
    }

    /// The namespace the call runs in; without a valid one it must not run.
    pub fn namespace(&self) -> Result<Namespace> {
        Namespace::required(self.namespace.as_deref())
    }
}

/// An answer, encoded.
#[derive(Debug, Default)]
pub struct Reply {
    /// The message as it goes over the wire.
    pub message: Vec<u8>,
    /// For a large message its share of the budget, to be held until the message is sent.
    pub hold: Option<Reservation>,
}

/// containerd's Images service. The local store is one; a front that passes writes on to a
/// containerd is another. Transports know only this.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Whether these are the images of the containerd whose database lies at `path`.
    fn are_of_database(&self, _path: &Path) -> bool {
        false
    }
    /// The image of a name. Answers a `GetImageResponse`.
    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply>;
    /// The images that match any of the filters, in byte order of names. Answers a
    /// `ListImagesResponse`.
    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply>;
    /// Makes a new image. Answers a `CreateImageResponse`.
    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply>;
    /// Changes an image. Answers an `UpdateImageResponse`.
    async fn update(&self, call: &CallContext, request: UpdateImageRequest) -> Result<Reply>;
    /// Removes an image. Answers `google.protobuf.Empty`.
    async fn delete(&self, call: &CallContext, request: DeleteImageRequest) -> Result<Reply>;
}
