//! A request of the services beside Images, or one of Images that they meet.
//!
//! Names hold [`TOKEN`] where they must differ between sequences, as namespaces are one for a
//! whole server. It is put in, and taken out of the answer, in the encoded messages: its length is
//! always the same.

use lmdb_images::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use lmdb_images::api::images::{CreateImageRequest, DeleteImageRequest, UpdateImageRequest};
use lmdb_images::api::introspection::PluginsRequest;
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest,
    ListResourcesRequest,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
    UpdateNamespaceRequest,
};
use lmdb_images::api::transfer::TransferRequest;
use protobuf::Message;

use crate::support::{EVENTS, IMAGES, INTROSPECTION, LEASES, NAMESPACES, TRANSFER};

/// Stands for the number of a sequence.
pub const TOKEN: &str = "S0000000";

#[derive(Clone, PartialEq)]
pub enum Request {
    GetNamespace(GetNamespaceRequest),
    ListNamespaces(ListNamespacesRequest),
    CreateNamespace(CreateNamespaceRequest),
    UpdateNamespace(UpdateNamespaceRequest),
    DeleteNamespace(DeleteNamespaceRequest),
    CreateImage(CreateImageRequest),
    UpdateImage(UpdateImageRequest),
    DeleteImage(DeleteImageRequest),
    CreateLease(CreateRequest),
    DeleteLease(DeleteRequest),
    ListLeases(ListRequest),
    AddResource(AddResourceRequest),
    DeleteResource(DeleteResourceRequest),
    ListResources(ListResourcesRequest),
    Publish(PublishRequest),
    Forward(ForwardRequest),
    Subscribe(SubscribeRequest),
    Plugins(PluginsRequest),
    Transfer(TransferRequest),
}

/// A request with the namespace of its header.
#[derive(Clone, PartialEq)]
pub struct Step {
    pub space: Option<String>,
    pub request: Request,
}

impl Request {
    /// Its service, its method, and its message.
    pub fn parts(&self) -> (&'static str, &'static str, Vec<u8>) {
        fn encoded<M: Message>(
            service: &'static str,
            method: &'static str,
            message: &M,
        ) -> (&'static str, &'static str, Vec<u8>) {
            (service, method, message.write_to_bytes().unwrap())
        }
        match self {
            Self::GetNamespace(m) => encoded(NAMESPACES, "Get", m),
            Self::ListNamespaces(m) => encoded(NAMESPACES, "List", m),
            Self::CreateNamespace(m) => encoded(NAMESPACES, "Create", m),
            Self::UpdateNamespace(m) => encoded(NAMESPACES, "Update", m),
            Self::DeleteNamespace(m) => encoded(NAMESPACES, "Delete", m),
            Self::CreateImage(m) => encoded(IMAGES, "Create", m),
            Self::UpdateImage(m) => encoded(IMAGES, "Update", m),
            Self::DeleteImage(m) => encoded(IMAGES, "Delete", m),
            Self::CreateLease(m) => encoded(LEASES, "Create", m),
            Self::DeleteLease(m) => encoded(LEASES, "Delete", m),
            Self::ListLeases(m) => encoded(LEASES, "List", m),
            Self::AddResource(m) => encoded(LEASES, "AddResource", m),
            Self::DeleteResource(m) => encoded(LEASES, "DeleteResource", m),
            Self::ListResources(m) => encoded(LEASES, "ListResources", m),
            Self::Publish(m) => encoded(EVENTS, "Publish", m),
            Self::Forward(m) => encoded(EVENTS, "Forward", m),
            Self::Subscribe(m) => encoded(EVENTS, "Subscribe", m),
            Self::Plugins(m) => encoded(INTROSPECTION, "Plugins", m),
            Self::Transfer(m) => encoded(TRANSFER, "Transfer", m),
        }
    }

    /// "Namespaces/Get" and the like.
    pub fn method(&self) -> String {
        let (service, method, _) = self.parts();
        format!("{}/{method}", service.rsplit('.').next().unwrap())
    }

    /// Whether containerd would read a field that is unset, and die. Such a request must not be sent.
    pub fn is_deadly(&self) -> bool {
        match self {
            Self::CreateNamespace(m) => m.namespace.is_none(),
            Self::UpdateNamespace(m) => m.namespace.is_none(),
            Self::CreateImage(m) => m.image.is_none() || m.image.target.is_none(),
            Self::UpdateImage(m) => m.image.is_none() || m.image.target.is_none(),
            Self::AddResource(m) => m.resource.is_none(),
            Self::DeleteResource(m) => m.resource.is_none(),
            Self::Forward(m) => m.envelope.is_none(),
            Self::Transfer(m) => m.source.is_none() || m.destination.is_none(),
            _ => false,
        }
    }
}

/// `bytes` with the number of a sequence for the token.
pub fn numbered(bytes: &[u8], sequence: u64) -> Vec<u8> {
    replaced(bytes, TOKEN.as_bytes(), token(sequence).as_bytes())
}

/// `bytes` with the token for the number of a sequence.
pub fn unnumbered(bytes: &[u8], sequence: u64) -> Vec<u8> {
    replaced(bytes, token(sequence).as_bytes(), TOKEN.as_bytes())
}

fn token(sequence: u64) -> String {
    assert!(sequence > 0, "it is the token itself");
    format!("S{sequence:07}")
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    for at in 0..(bytes.len() + 1).saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
        }
    }
    bytes
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = match &self.request {
            Request::GetNamespace(m) => m.to_string(),
            Request::ListNamespaces(m) => m.to_string(),
            Request::CreateNamespace(m) => m.to_string(),
            Request::UpdateNamespace(m) => m.to_string(),
            Request::DeleteNamespace(m) => m.to_string(),
            Request::CreateImage(m) => m.to_string(),
            Request::UpdateImage(m) => m.to_string(),
            Request::DeleteImage(m) => m.to_string(),
            Request::CreateLease(m) => m.to_string(),
            Request::DeleteLease(m) => m.to_string(),
            Request::ListLeases(m) => m.to_string(),
            Request::AddResource(m) => m.to_string(),
            Request::DeleteResource(m) => m.to_string(),
            Request::ListResources(m) => m.to_string(),
            Request::Publish(m) => m.to_string(),
            Request::Forward(m) => m.to_string(),
            Request::Subscribe(m) => m.to_string(),
            Request::Plugins(m) => m.to_string(),
            Request::Transfer(m) => m.to_string(),
        };
        let shown = crate::live::show::short(&message);
        write!(f, "{} in {:?}: {shown}", self.request.method(), self.space)
    }
}
