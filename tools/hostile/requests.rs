//! Well-formed requests that cost a daemon much for their size.

use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use lmdb_images::api::imagestore::{ImageReference, ImageStore};
use lmdb_images::api::introspection::PluginsRequest;
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, ListRequest, ListResourcesRequest, Resource,
};
use lmdb_images::api::namespace::{CreateNamespaceRequest, Namespace};
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};

use super::client::{self, EVENTS, IMAGES, INTROSPECTION, LEASES, NAMESPACES, TRANSFER};

/// The namespace of the attacks.
pub const NAMESPACE: &str = "n";

/// The label that says when a record may be collected.
const EXPIRE: &str = "containerd.io/gc.expire";

/// One call.
#[derive(Debug, Clone)]
pub struct Request {
    pub service: &'static str,
    pub method: &'static str,
    pub namespace: String,
    pub message: Vec<u8>,
}

impl Request {
    fn new(service: &'static str, method: &'static str, message: &impl Message) -> Self {
        let namespace = NAMESPACE.into();
        Self { service, method, namespace, message: message.write_to_bytes().unwrap() }
    }

    pub fn within(self, namespace: String) -> Self {
        Self { namespace, ..self }
    }
}

/// As many labels as that, each with a value of that length.
fn labels(count: usize, length: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |n| (format!("l{n:x}"), "v".repeat(length)))
}

/// A value of letters in an order on which no automaton of `EXPENSIVE` patterns comes to rest.
pub fn restless(length: usize) -> String {
    let bit = |n: u64| n.wrapping_mul(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
    (0..length as u64).map(|n| if bit(n) == 0 { 'a' } else { 'b' }).collect()
}

/// An image with a name, that many labels of that length, and an annotation of that length.
pub fn image(name: &str, count: usize, length: usize, annotation: usize) -> Image {
    let mut image = client::image(name);
    image.labels = labels(count, length).collect();
    if annotation > 0 {
        let target = image.target.as_mut().unwrap();
        target.annotations.insert("filler".into(), "x".repeat(annotation));
    }
    image
}

pub fn create_image(image: Image) -> Request {
    let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
    Request::new(IMAGES, "Create", &request)
}

pub fn update_image(image: Image, paths: Vec<String>) -> Request {
    let update_mask = MessageField::some(FieldMask { paths, ..Default::default() });
    let image = MessageField::some(image);
    let request = UpdateImageRequest { image, update_mask, ..Default::default() };
    Request::new(IMAGES, "Update", &request)
}

pub fn get_image(name: &str) -> Request {
    let request = GetImageRequest { name: name.into(), ..Default::default() };
    Request::new(IMAGES, "Get", &request)
}

pub fn delete_image(name: &str, sync: bool) -> Request {
    let request = DeleteImageRequest { name: name.into(), sync, ..Default::default() };
    Request::new(IMAGES, "Delete", &request)
}

pub fn list_images(filters: Vec<String>) -> Request {
    Request::new(IMAGES, "List", &ListImagesRequest { filters, ..Default::default() })
}

/// An image that expires at that time.
pub fn expiring_image(name: &str, expires: &str) -> Request {
    let mut expiring = image(name, 1, 8, 0);
    expiring.labels.insert(EXPIRE.into(), expires.into());
    create_image(expiring)
}

/// A lease that expires at that time.
pub fn expiring_lease(id: &str, expires: &str) -> Request {
    let labels = [(EXPIRE.to_owned(), expires.to_owned())].into();
    let request = CreateRequest { id: id.into(), labels, ..Default::default() };
    Request::new(LEASES, "Create", &request)
}

pub fn create_lease(id: &str, count: usize, length: usize) -> Request {
    let labels = labels(count, length).collect();
    Request::new(LEASES, "Create", &CreateRequest { id: id.into(), labels, ..Default::default() })
}

pub fn add_resource(lease: &str, resource: String) -> Request {
    let (type_, id) = ("images".into(), resource);
    let resource = MessageField::some(Resource { type_, id, ..Default::default() });
    let request = AddResourceRequest { id: lease.into(), resource, ..Default::default() };
    Request::new(LEASES, "AddResource", &request)
}

pub fn list_leases(filters: Vec<String>) -> Request {
    Request::new(LEASES, "List", &ListRequest { filters, ..Default::default() })
}

pub fn list_resources(lease: &str) -> Request {
    let request = ListResourcesRequest { id: lease.into(), ..Default::default() };
    Request::new(LEASES, "ListResources", &request)
}

pub fn create_namespace(name: &str, count: usize, length: usize) -> Request {
    let labels = labels(count, length).collect();
    let namespace = Namespace { name: name.into(), labels, ..Default::default() };
    let namespace = MessageField::some(namespace);
    let request = CreateNamespaceRequest { namespace, ..Default::default() };
    Request::new(NAMESPACES, "Create", &request)
}

pub fn list_namespaces() -> Request {
    let request = lmdb_images::api::namespace::ListNamespacesRequest::new();
    Request::new(NAMESPACES, "List", &request)
}

pub fn plugins(filters: Vec<String>) -> Request {
    Request::new(INTROSPECTION, "Plugins", &PluginsRequest { filters, ..Default::default() })
}

/// Gives the target of an image to that many names, each with that many labels.
pub fn tags(source: &str, names: usize, count: usize, length: usize) -> Request {
    let reference = |n| ImageReference { name: format!("tag-{n}"), ..Default::default() };
    let store = |store: ImageStore| {
        MessageField::some(Any {
            type_url: "containerd.types.transfer.ImageStore".into(),
            value: store.write_to_bytes().unwrap(),
            ..Default::default()
        })
    };
    let request = TransferRequest {
        source: store(ImageStore { name: source.into(), ..Default::default() }),
        destination: store(ImageStore {
            labels: labels(count, length).collect(),
            extra_references: (0..names).map(reference).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Request::new(TRANSFER, "Transfer", &request)
}

/// An event with a name and labels, as of an image that was made.
fn event(name: String, count: usize, length: usize) -> MessageField<Any> {
    let event = ImageCreate { name, labels: labels(count, length).collect(), ..Default::default() };
    MessageField::some(Any {
        type_url: "containerd.services.images.v1.ImageCreate".into(),
        value: event.write_to_bytes().unwrap(),
        ..Default::default()
    })
}

pub fn publish(name: String, count: usize, length: usize) -> Request {
    let (topic, event) = ("/images/create".into(), event(name, count, length));
    Request::new(EVENTS, "Publish", &PublishRequest { topic, event, ..Default::default() })
}

pub fn forward(name: String, count: usize, length: usize) -> Request {
    let envelope = Envelope {
        namespace: NAMESPACE.into(),
        topic: "/images/create".into(),
        event: event(name, count, length),
        ..Default::default()
    };
    let envelope = MessageField::some(envelope);
    Request::new(EVENTS, "Forward", &ForwardRequest { envelope, ..Default::default() })
}

pub fn subscribe(filters: Vec<String>) -> Request {
    Request::new(EVENTS, "Subscribe", &SubscribeRequest { filters, ..Default::default() })
}
