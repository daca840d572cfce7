//! Leases of a containerd. What calls make under a lease is kept until the lease is removed or expires.

use protobuf::well_known_types::empty::Empty;

use crate::api::leases::{CreateRequest, CreateResponse, DeleteRequest, ListRequest, ListResponse};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result};

/// The label with the time at which the collector removes a lease.
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

impl GrpcClient {
    /// Makes a lease that ends at `expires` (RFC 3339) by itself.
    pub async fn create_lease(
        &self,
        namespace: &Namespace,
        id: &str,
        expires: String,
    ) -> Result<()> {
        let labels = [(EXPIRE_LABEL.to_owned(), expires)].into();
        let request = CreateRequest { id: id.to_owned(), labels, ..CreateRequest::default() };
        let path = "/containerd.services.leases.v1.Leases/Create";
        self.put::<_, CreateResponse>(path, namespace, request).await.map(drop)
    }

    /// The ids of the leases whose ids begin so.
    pub async fn leases(&self, namespace: &Namespace, beginning: &str) -> Result<Vec<String>> {
        let path = "/containerd.services.leases.v1.Leases/List";
        let found: ListResponse = self.put(path, namespace, ListRequest::new()).await?;
        let ids = found.leases.into_iter().map(|lease| lease.id);
        Ok(ids.filter(|id| id.starts_with(beginning)).collect())
    }

    /// Removes a lease. One that is gone is no error.
    pub async fn delete_lease(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let request = DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() };
        let path = "/containerd.services.leases.v1.Leases/Delete";
        match self.put::<_, Empty>(path, namespace, request).await {
            Ok(_) => Ok(()),
            Err(Error::Upstream(code, _)) if code == tonic::Code::NotFound as i32 => Ok(()),
            Err(e) => Err(e),
        }
    }
}
