//! The calls made of a containerd, over its gRPC socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use protobuf::Message;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::codec::MessageCodec;
use super::parts::{Part, Sizes};
use crate::api::images::{Image, ListImagesRequest, ListImagesResponse};
use crate::api::namespace::{ListNamespacesRequest, ListNamespacesResponse, Namespace as Record};
use crate::model::{Error, Namespace, Result};

/// How long a containerd may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection to a containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    grpc: tonic::client::Grpc<Channel>,
    socket: PathBuf,
}

impl Containerd {
    /// Connects to the socket of a containerd.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is only what HTTP/2 names as :authority; grpc-go sends the same.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT)
            .connect_with_connector(connector)
            .await
            .map_err(|e| {
                Error::Unavailable(format!(
                    "cannot connect to containerd at {}: {}",
                    socket.display(),
                    innermost(&e)
                ))
            })?;
        // What containerd sends it has measured against its own limit.
        let grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { grpc, socket: socket.to_owned() })
    }

    /// All namespaces with their labels.
    pub async fn namespaces(&self) -> Result<Vec<Record>> {
        let path = "/containerd.services.namespaces.v1.Namespaces/List";
        let reply: ListNamespacesResponse = self
            .call(path, None, ListNamespacesRequest::new())
            .await
            .map_err(|s| self.failed("listing namespaces", &s))?;
        Ok(reply.namespaces)
    }

    /// All images of a namespace, handed to `take` part by part: one reply carries 16 MiB at most.
    pub async fn images(
        &self,
        namespace: &Namespace,
        mut take: impl AsyncFnMut(Vec<Image>) -> Result<()>,
    ) -> Result<()> {
        let path = "/containerd.services.images.v1.Images/List";
        let mut parts = vec![Part::all()];
        while let Some(part) = parts.pop() {
            let request = ListImagesRequest { filters: part.filters(), ..Default::default() };
            match self.call::<_, ListImagesResponse>(path, Some(namespace), request).await {
                Ok(reply) => take(reply.images).await?,
                Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                    match part.split() {
                        Sizes::Smaller(smaller) => parts.extend(smaller),
                        Sizes::Smallest => {
                            return Err(self.failed(
                                &format!("listing {part} of namespace {namespace}"),
                                &status,
                            ));
                        }
                    }
                }
                Err(status) => {
                    return Err(
                        self.failed(&format!("listing images of namespace {namespace}"), &status)
                    );
                }
            }
        }
        Ok(())
    }

    async fn call<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: Option<&Namespace>,
        message: Q,
    ) -> std::result::Result<R, Status> {
        let mut request = Request::new(message);
        if let Some(namespace) = namespace {
            let value = MetadataValue::try_from(namespace.as_str())
                .map_err(|e| Status::internal(format!("namespace {namespace} in a header: {e}")))?;
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| Status::unavailable(innermost(&e)))?;
        let path = PathAndQuery::from_static(path);
        grpc.unary(request, path, MessageCodec::<Q, R>::default())
            .await
            .map(tonic::Response::into_inner)
    }

    fn failed(&self, doing: &str, status: &Status) -> Error {
        Error::Unavailable(format!(
            "{doing} of containerd at {}: {:?}: {}",
            self.socket.display(),
            status.code(),
            status.message()
        ))
    }
}

/// What lies at the bottom of an error; the layers above say only "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
