//! Stores records in a containerd, for `lmdb-images export`.
//!
//! [`Error::Upstream`] means that containerd refuses this record. Any other error means that
//! containerd cannot be reached or does not answer, and concerns all records.

use std::time::Duration;

use http::HeaderMap;
use protobuf::Message;
use tonic::{Code, Status};

use crate::api::content::{InfoRequest, InfoResponse};
use crate::api::images::{
    CreateImageRequest, CreateImageResponse, Image, UpdateImageRequest, UpdateImageResponse,
};
use crate::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, Namespace as Record, UpdateNamespaceRequest,
    UpdateNamespaceResponse,
};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result};

/// How long containerd may take for one record.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

impl GrpcClient {
    /// Whether containerd has that content in the namespace.
    pub(crate) async fn has_content(&self, namespace: &Namespace, digest: &str) -> Result<bool> {
        let request = InfoRequest { digest: digest.to_owned(), ..InfoRequest::default() };
        let path = "/containerd.services.content.v1.Content/Info";
        match self.call_with_timeout::<_, InfoResponse>(path, namespace, request).await {
            Ok(_) => Ok(true),
            Err(Error::Upstream(code, _)) if code == Code::NotFound as i32 => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Creates the image, with its time of creation if containerd accepts one (from 1.7 on). Returns the new
    /// record; `None` if containerd has an image of that name.
    pub(crate) async fn create_image(
        &self,
        namespace: &Namespace,
        image: &Image,
    ) -> Result<Option<Image>> {
        let request = CreateImageRequest {
            image: Some(image.clone()).into(),
            source_date_epoch: image.created_at.clone(),
            ..CreateImageRequest::default()
        };
        let path = "/containerd.services.images.v1.Images/Create";
        match self.call_with_timeout::<_, CreateImageResponse>(path, namespace, request).await {
            Ok(made) => Ok(Some(made.image.unwrap_or_default())),
            Err(Error::Upstream(code, _)) if code == Code::AlreadyExists as i32 => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets labels and target of an image to those of this one, and its time of change if containerd accepts
    /// one. Returns the new record.
    pub(crate) async fn update_image(&self, namespace: &Namespace, image: &Image) -> Result<Image> {
        let request = UpdateImageRequest {
            image: Some(image.clone()).into(),
            source_date_epoch: image.updated_at.clone(),
            ..UpdateImageRequest::default()
        };
        let path = "/containerd.services.images.v1.Images/Update";
        let made: UpdateImageResponse = self.call_with_timeout(path, namespace, request).await?;
        Ok(made.image.unwrap_or_default())
    }

    /// Creates a namespace with its labels. The call names the same namespace in its header: without one
    /// containerd cannot publish its event, and fails after the change.
    pub(crate) async fn create_namespace(
        &self,
        namespace: &Namespace,
        record: Record,
    ) -> Result<()> {
        let request = CreateNamespaceRequest {
            namespace: Some(record).into(),
            ..CreateNamespaceRequest::default()
        };
        let path = "/containerd.services.namespaces.v1.Namespaces/Create";
        self.call_with_timeout::<_, CreateNamespaceResponse>(path, namespace, request)
            .await
            .map(drop)
    }

    /// Replaces the labels of a namespace.
    pub(crate) async fn update_namespace(
        &self,
        namespace: &Namespace,
        record: Record,
    ) -> Result<()> {
        let request = UpdateNamespaceRequest {
            namespace: Some(record).into(),
            ..UpdateNamespaceRequest::default()
        };
        let path = "/containerd.services.namespaces.v1.Namespaces/Update";
        self.call_with_timeout::<_, UpdateNamespaceResponse>(path, namespace, request)
            .await
            .map(drop)
    }

    pub(crate) async fn call_with_timeout<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        message: Q,
    ) -> Result<R> {
        let headers = HeaderMap::new();
        match tokio::time::timeout(
            CALL_TIMEOUT,
            self.call(path, Some(namespace), &headers, message),
        )
        .await
        {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => Err(self.call_error(&status)),
            Err(_) => Err(Error::DeadlineExceeded(format!(
                "containerd at {} did not answer within {} s",
                self.socket().display(),
                CALL_TIMEOUT.as_secs()
            ))),
        }
    }

    pub(super) fn call_error(&self, status: &Status) -> Error {
        match status.code() {
            Code::Unavailable | Code::Cancelled => self.failed("a call", status),
            code => Error::Upstream(code as i32, status.message().to_owned()),
        }
    }
}
