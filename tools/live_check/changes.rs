//! The changes: operations on one record, in a fixed cycle.

use http::HeaderMap;
use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, Image, UpdateImageRequest,
    UpdateImageResponse,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, Namespace as Record,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use lmdb_images::containerd::client::GrpcClient;
use lmdb_images::model::Namespace;
use protobuf::well_known_types::empty::Empty;

use crate::Result;
use crate::expectation::{CYCLE, DELETED, Expectation};

/// Makes the operation of that number on the record.
pub async fn change(containerd: &GrpcClient, expected: &Expectation, number: u64) -> Result<()> {
    let namespace = Namespace::parse(&expected.namespace)?;
    let headers = HeaderMap::new();
    let label = [("number".to_owned(), number.to_string())].into();
    let Some(name) = expected.image.clone() else {
        let name = expected.namespace.clone();
        let record = Record { name: name.clone(), labels: label, ..Record::default() };
        let record = Some(record).into();
        // 1.6 publishes the event of a namespace only when the call names one itself.
        let namespace = Some(&namespace);
        match number % CYCLE {
            0 => {
                let request = CreateNamespaceRequest { namespace: record, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Create";
                containerd
                    .call::<_, CreateNamespaceResponse>(path, namespace, &headers, request)
                    .await?;
            }
            DELETED => {
                let request = DeleteNamespaceRequest { name, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Delete";
                containerd.call::<_, Empty>(path, namespace, &headers, request).await?;
            }
            _ => {
                let request = UpdateNamespaceRequest { namespace: record, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Update";
                containerd
                    .call::<_, UpdateNamespaceResponse>(path, namespace, &headers, request)
                    .await?;
            }
        }
        return Ok(());
    };
    let mut image = Image { name: name.clone(), labels: label, ..Image::default() };
    let target = image.target.mut_or_insert_default();
    target.media_type = format!("application/x-{number}");
    target.digest = format!("sha256:{number:064x}");
    target.size = 1;
    let (image, namespace) = (Some(image).into(), Some(&namespace));
    match number % CYCLE {
        0 => {
            let request = CreateImageRequest { image, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Create";
            containerd.call::<_, CreateImageResponse>(path, namespace, &headers, request).await?;
        }
        DELETED => {
            let request = DeleteImageRequest { name, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Delete";
            containerd.call::<_, Empty>(path, namespace, &headers, request).await?;
        }
        _ => {
            let request = UpdateImageRequest { image, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Update";
            containerd.call::<_, UpdateImageResponse>(path, namespace, &headers, request).await?;
        }
    }
    Ok(())
}
