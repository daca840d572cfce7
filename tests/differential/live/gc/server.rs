//! One of the two servers, as a client sees it.

use std::collections::BTreeSet;
use std::path::Path;

use http::uri::PathAndQuery;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, Image, ListImagesRequest, ListImagesResponse,
    UpdateImageRequest,
};
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, ListResponse, Resource,
};
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::graph::{self, EXPIRE, Graph, Removal};
use crate::support::{self, IMAGES, LEASES, Raw};

/// Nothing of a graph is in it.
const OWN_NAMESPACE: &str = "trigger";

/// Namespace and name of each image, namespace and id of each lease.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    images: BTreeSet<(String, String)>,
    leases: BTreeSet<(String, String)>,
}

impl Left {
    pub fn image_count(&self) -> usize {
        self.images.len()
    }
}

pub struct Server {
    channel: Channel,
}

impl Server {
    pub async fn connect(socket: &Path) -> Self {
        Self { channel: support::channel(socket).await.unwrap() }
    }

    async fn call(
        &self,
        (service, method): (&str, &str),
        namespace: &str,
        lease: Option<&str>,
        message: &impl Message,
    ) -> Result<Vec<u8>, Status> {
        let mut request = tonic::Request::new(message.write_to_bytes().unwrap());
        request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
        if let Some(lease) = lease {
            request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        }
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/{service}/{method}")).unwrap();
        grpc.unary(request, path, Raw).await.map(tonic::Response::into_inner)
    }

    /// Makes all of it. Until everything that keeps something is there nothing expires: either server
    /// may collect in between, at moments of its own, and removes only what goes in the end too.
    pub async fn make(&self, graph: &Graph) {
        for image in &graph.images {
            self.create(&graph.namespaces[image.namespace], image).await;
        }
        for lease in &graph.leases {
            self.lease(&graph.namespaces[lease.namespace], lease).await;
        }
        for image in &graph.images {
            if let Some(time) = image.expires {
                let namespace = &graph.namespaces[image.namespace];
                self.expire(namespace, image, time).await;
            }
        }
    }

    async fn create(&self, namespace: &str, drawn: &graph::Image) {
        let image = Image { labels: drawn.labels.clone(), ..support::image(&drawn.name) };
        let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
        self.call((IMAGES, "Create"), namespace, None, &request).await.unwrap();
    }

    async fn expire(&self, namespace: &str, drawn: &graph::Image, time: &str) {
        let mut image = support::image(&drawn.name);
        image.labels.insert(EXPIRE.into(), time.into());
        let paths = vec![format!("labels.{EXPIRE}")];
        let update_mask = MessageField::some(FieldMask { paths, ..Default::default() });
        let image = MessageField::some(image);
        let request = UpdateImageRequest { image, update_mask, ..Default::default() };
        let lease = drawn.under.as_deref();
        self.call((IMAGES, "Update"), namespace, lease, &request).await.unwrap();
    }

    async fn lease(&self, namespace: &str, lease: &graph::Lease) {
        let labels = lease.labels.clone();
        let create = CreateRequest { id: lease.id.clone(), labels, ..Default::default() };
        self.call((LEASES, "Create"), namespace, None, &create).await.unwrap();
        for image in &lease.images {
            let resource =
                Resource { id: image.clone(), type_: "images".into(), ..Default::default() };
            let resource = MessageField::some(resource);
            let add = AddResourceRequest { id: lease.id.clone(), resource, ..Default::default() };
            let added = self.call((LEASES, "AddResource"), namespace, None, &add).await;
            // One that has expired may be collected by then.
            if !(lease.has_expired && is_missing(&added)) {
                added.unwrap();
            }
        }
    }

    /// What was collected before is no error.
    pub async fn remove(&self, removal: &Removal) {
        let removed = match removal {
            Removal::Image(namespace, name) => self.remove_image(namespace, name, false).await,
            Removal::Lease(namespace, id) => self.remove_lease(namespace, id).await,
        };
        if !is_missing(&removed) {
            removed.unwrap();
        }
    }

    async fn remove_image(
        &self,
        namespace: &str,
        name: &str,
        sync: bool,
    ) -> Result<Vec<u8>, Status> {
        let request = DeleteImageRequest { name: name.into(), sync, ..Default::default() };
        self.call((IMAGES, "Delete"), namespace, None, &request).await
    }

    async fn remove_lease(&self, namespace: &str, id: &str) -> Result<Vec<u8>, Status> {
        let request = DeleteRequest { id: id.into(), ..Default::default() };
        self.call((LEASES, "Delete"), namespace, None, &request).await
    }

    /// Has the server collect, and waits for it.
    pub async fn collect(&self) {
        let image = MessageField::some(support::image("last"));
        let create = CreateImageRequest { image, ..Default::default() };
        self.call((IMAGES, "Create"), OWN_NAMESPACE, None, &create).await.unwrap();
        self.remove_image(OWN_NAMESPACE, "last", true).await.unwrap();
    }

    pub async fn left(&self, namespaces: &[String]) -> Left {
        let mut left = Left { images: BTreeSet::new(), leases: BTreeSet::new() };
        for namespace in namespaces {
            let list = ListImagesRequest::new();
            let bytes = self.call((IMAGES, "List"), namespace, None, &list).await.unwrap();
            let images = ListImagesResponse::parse_from_bytes(&bytes).unwrap().images;
            left.images.extend(images.into_iter().map(|image| (namespace.clone(), image.name)));
            let list = ListRequest::new();
            let bytes = self.call((LEASES, "List"), namespace, None, &list).await.unwrap();
            let leases = ListResponse::parse_from_bytes(&bytes).unwrap().leases;
            left.leases.extend(leases.into_iter().map(|lease| (namespace.clone(), lease.id)));
        }
        left
    }

    /// Removes all that is left, so that later collections do not go through it.
    pub async fn clear(&self, namespaces: &[String]) {
        let left = self.left(namespaces).await;
        for (namespace, id) in left.leases {
            self.remove(&Removal::Lease(namespace, id)).await;
        }
        for (namespace, name) in left.images {
            self.remove(&Removal::Image(namespace, name)).await;
        }
    }
}

fn is_missing<T>(answer: &Result<T, Status>) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == Code::NotFound)
}
