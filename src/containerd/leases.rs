//! Leases that keep content from containerd's garbage collector.

use protobuf::well_known_types::empty::Empty;

use crate::api::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, ListRequest, ListResponse,
    Resource,
};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, UnixTime};

/// The label with the time from which on the collector removes a lease.
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// The type of a resource that is content.
const CONTENT_RESOURCE: &str = "content";

impl GrpcClient {
    /// Makes a lease that the collector removes after a time. An existing lease stays as it is.
    pub(crate) async fn create_lease(
        &self,
        namespace: &Namespace,
        id: &str,
        expires: UnixTime,
    ) -> Result<()> {
        let labels = [(EXPIRE_LABEL.to_owned(), expires.to_jiff().to_string())].into();
        let request = CreateRequest { id: id.to_owned(), labels, ..CreateRequest::default() };
        let path = "/containerd.services.leases.v1.Leases/Create";
        match self.call_with_timeout::<_, CreateResponse>(path, namespace, request).await {
            Ok(_) => Ok(()),
            Err(Error::Upstream(code, _)) if code == tonic::Code::AlreadyExists as i32 => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Adds content, with all that it refers to, to a lease. containerd also takes a digest that it does not
    /// have.
    pub(crate) async fn lease_content(
        &self,
        namespace: &Namespace,
        id: &str,
        digest: &str,
    ) -> Result<()> {
        let resource = Resource {
            id: digest.to_owned(),
            type_: CONTENT_RESOURCE.to_owned(),
            ..Resource::default()
        };
        let request = AddResourceRequest {
            id: id.to_owned(),
            resource: Some(resource).into(),
            ..AddResourceRequest::default()
        };
        let path = "/containerd.services.leases.v1.Leases/AddResource";
        self.call_with_timeout::<_, Empty>(path, namespace, request).await.map(drop)
    }

    /// The ids of the leases with this prefix.
    pub(crate) async fn leases(&self, namespace: &Namespace, prefix: &str) -> Result<Vec<String>> {
        let path = "/containerd.services.leases.v1.Leases/List";
        let found: ListResponse =
            self.call_with_timeout(path, namespace, ListRequest::new()).await?;
        let ids = found.leases.into_iter().map(|lease| lease.id);
        Ok(ids.filter(|id| id.starts_with(prefix)).collect())
    }

    /// Removes a lease.
    pub(crate) async fn delete_lease(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let request = DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() };
        let path = "/containerd.services.leases.v1.Leases/Delete";
        self.call_with_timeout::<_, Empty>(path, namespace, request).await.map(drop)
    }
}
