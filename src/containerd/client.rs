//! The client of a containerd, over its gRPC socket.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use go_compat::quote::quote;
use http::HeaderMap;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::api::images::{
    GetImageRequest, GetImageResponse, Image, ListImagesRequest, ListImagesResponse,
};
use crate::api::namespace::{ListNamespacesRequest, ListNamespacesResponse, Namespace as Record};
use crate::api::version::VersionResponse;
use crate::containerd::DIRECT_HEADER;
use crate::containerd::codec::{EncodedCodec, decode, encode};
use crate::containerd::partition::{Partition, Split};
use crate::model::{Context, Error, Namespace, Result};

/// How long a containerd may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of headers in a reply of containerd. Its errors repeat values of the request in a header,
/// and containerd does not bound that header.
pub(crate) const MAX_HEADER_LIST: u32 = 1 << 20;

/// The longest name, in bytes, whose errors always fit into [`MAX_HEADER_LIST`]: quoting makes at most four
/// bytes of one.
pub(crate) const MAX_NAME: usize = 64 << 10;

/// A connection to a containerd.
#[derive(Debug, Clone)]
pub struct GrpcClient {
    grpc: tonic::client::Grpc<Channel>,
    socket: PathBuf,
    /// The lease in the header of each call.
    lease: Option<MetadataValue<Ascii>>,
}

impl GrpcClient {
    /// Connects to the socket of a containerd.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let containerd = Self::lazy(socket);
        // The first call would connect too, but with a less clear error if no containerd listens.
        UnixStream::connect(socket).await.map_err(|e| {
            Error::Unavailable(format!("cannot connect to containerd at {}: {e}", socket.display()))
        })?;
        Ok(containerd)
    }

    /// A client that connects at its first call, and again when containerd was away.
    pub fn lazy(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is only the :authority of HTTP/2; grpc-go sends the same.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .connect_with_connector_lazy(connector);
        // containerd checks its replies against its own limit.
        let grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Self { grpc, socket: socket.to_owned(), lease: None }
    }

    /// A client of the same connection whose calls carry the lease, so that containerd's collector keeps what
    /// they make until the lease ends.
    pub(crate) fn with_lease(&self, id: &str) -> Result<Self> {
        let lease = MetadataValue::try_from(id)
            .or_internal(format_args!("lease {} in a header", quote(id)))?;
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All namespaces with their labels.
    pub async fn namespaces(&self) -> Result<Vec<Record>> {
        let path = "/containerd.services.namespaces.v1.Namespaces/List";
        let reply: ListNamespacesResponse = self
            .call(path, None, &HeaderMap::new(), ListNamespacesRequest::new())
            .await
            .map_err(|s| self.failed("listing namespaces", &s))?;
        Ok(reply.namespaces)
    }

    /// The version of the containerd, as it says it.
    pub(crate) async fn version(&self) -> Result<String> {
        let path = "/containerd.services.version.v1.Version/Version";
        let reply: VersionResponse = self
            .call(path, None, &HeaderMap::new(), Empty::new())
            .await
            .map_err(|s| self.failed("reading the version", &s))?;
        Ok(reply.version)
    }

    /// All images of a namespace, by partitions: one reply carries at most 16 MiB.
    pub fn images<'c>(&'c self, namespace: &'c Namespace) -> Listing<'c> {
        Listing { containerd: self, namespace, partitions: vec![Partition::all()] }
    }

    /// The image of that name, if containerd has one.
    pub async fn image(&self, namespace: &Namespace, name: &str) -> Result<Option<Image>> {
        let path = "/containerd.services.images.v1.Images/Get";
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        match self.call(path, Some(namespace), &HeaderMap::new(), request).await {
            Ok(found) => {
                let found: GetImageResponse = found;
                Ok(found.image.into_option())
            }
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => {
                let doing = format!("reading image {} of namespace {namespace}", quote(name));
                Err(self.failed(&doing, &status))
            }
        }
    }

    /// As [`image`](Self::image), with a List: for names so long that the error of a Get may not arrive.
    pub(crate) async fn find_image(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Option<Image>> {
        let filters = vec![format!("name=={}", quote(name))];
        let request = ListImagesRequest { filters, ..Default::default() };
        let path = "/containerd.services.images.v1.Images/List";
        let headers = HeaderMap::new();
        let call = self.call(path, Some(namespace), &headers, request);
        let found = tokio::time::timeout(CONNECT_TIMEOUT, call).await;
        let found: ListImagesResponse = found
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time")))
            .map_err(|s| self.failed(&format!("finding an image of namespace {namespace}"), &s))?;
        Ok(found.images.into_iter().next())
    }

    /// Makes a call with one reply. The request carries `headers`.
    pub async fn call<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: Option<&Namespace>,
        headers: &HeaderMap,
        message: Q,
    ) -> std::result::Result<R, Status> {
        let message = encode(&message)?;
        decode(&self.call_encoded(path, namespace, headers, message).await?)
    }

    async fn call_encoded(
        &self,
        path: &'static str,
        namespace: Option<&Namespace>,
        headers: &HeaderMap,
        message: Vec<u8>,
    ) -> std::result::Result<Bytes, Status> {
        let mut grpc = self.ready().await?;
        let request = self.under_lease(request(namespace, headers, message)?);
        let reply = grpc.unary(request, PathAndQuery::from_static(path), EncodedCodec).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Makes a call whose reply has at most `limit` bytes, and returns the bytes. Returns `None`, and does not
    /// read the reply, if it is larger.
    pub(crate) async fn call_for_bytes(
        &self,
        path: &'static str,
        namespace: &Namespace,
        headers: &HeaderMap,
        message: Vec<u8>,
        limit: usize,
    ) -> std::result::Result<Option<Vec<u8>>, Status> {
        let mut grpc = self.ready().await?.max_decoding_message_size(limit);
        grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        let request = request(Some(namespace), headers, message)?;
        match grpc.unary(request, PathAndQuery::from_static(path), EncodedCodec).await {
            Ok(reply) => Ok(Some(reply.into_inner().into())),
            // This is tonic's own error: containerd has neither this code nor this sentence.
            Err(status)
                if status.code() == tonic::Code::OutOfRange
                    && status.message().contains("decoded message length too large") =>
            {
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }

    /// Makes a call with a stream of replies.
    pub async fn stream<Q: Message, R: Message>(
        &self,
        path: &'static str,
        message: Q,
    ) -> std::result::Result<Replies<R>, Status> {
        let message = encode(&message)?;
        self.stream_encoded(path, message).await.map(Replies::new)
    }

    async fn stream_encoded(
        &self,
        path: &'static str,
        message: Vec<u8>,
    ) -> std::result::Result<Streaming<Bytes>, Status> {
        let mut grpc = self.ready().await?;
        let request = request(None, &HeaderMap::new(), message)?;
        let path = PathAndQuery::from_static(path);
        let reply = grpc.server_streaming(request, path, EncodedCodec).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Makes a call with a stream of encoded requests and a stream of replies.
    pub(super) async fn exchange<R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        requests: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> std::result::Result<Replies<R>, Status> {
        let mut grpc = self.ready().await?;
        let request = self.under_lease(request(Some(namespace), &HeaderMap::new(), requests)?);
        let replies = grpc.streaming(request, PathAndQuery::from_static(path), EncodedCodec).await;
        replies.map(|replies| Replies::new(replies.into_inner()))
    }

    fn under_lease<Q>(&self, mut request: Request<Q>) -> Request<Q> {
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    async fn ready(&self) -> std::result::Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        Ok(grpc)
    }

    pub(crate) fn failed(&self, doing: &str, status: &Status) -> Error {
        Error::Unavailable(format!(
            "{doing} of containerd at {}: {:?}: {}",
            self.socket.display(),
            status.code(),
            status.message()
        ))
    }
}

/// A stream of replies.
#[derive(Debug)]
pub struct Replies<R> {
    encoded: Streaming<Bytes>,
    reply: PhantomData<fn() -> R>,
}

impl<R: Message> Replies<R> {
    fn new(encoded: Streaming<Bytes>) -> Self {
        Self { encoded, reply: PhantomData }
    }

    /// The next reply; `None` at the end.
    pub async fn message(&mut self) -> std::result::Result<Option<R>, Status> {
        self.encoded.message().await?.map(|reply| decode(&reply)).transpose()
    }
}

/// The images of a namespace, partition by partition.
#[derive(Debug)]
pub struct Listing<'c> {
    containerd: &'c GrpcClient,
    namespace: &'c Namespace,
    partitions: Vec<Partition>,
}

impl Listing<'_> {
    /// The next images; `None` at the end. An image that no reply can carry is an error.
    pub async fn next(&mut self) -> Result<Option<Vec<Image>>> {
        self.read(&mut |_, e| Err(e)).await
    }

    /// As [`next`](Self::next), but adds the name of an image that no reply can carry to `left_out`.
    pub(crate) async fn next_that_fit(
        &mut self,
        left_out: &mut BTreeSet<String>,
    ) -> Result<Option<Vec<Image>>> {
        let mut leave = |partition: &Partition, _| {
            left_out.insert(partition.to_string());
            Ok(())
        };
        self.read(&mut leave).await
    }

    async fn read(
        &mut self,
        too_large: &mut (dyn FnMut(&Partition, Error) -> Result<()> + Send),
    ) -> Result<Option<Vec<Image>>> {
        let path = "/containerd.services.images.v1.Images/List";
        let headers = HeaderMap::new();
        while let Some(partition) = self.partitions.pop() {
            let request = ListImagesRequest { filters: partition.filters(), ..Default::default() };
            let reply = self.containerd.call(path, Some(self.namespace), &headers, request).await;
            let failed = |what: String, status: &Status| {
                let doing = format!("listing {what} of namespace {}", self.namespace);
                self.containerd.failed(&doing, status)
            };
            match reply.map(|reply: ListImagesResponse| reply.images) {
                Ok(images) => return Ok(Some(images)),
                Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                    match partition.split() {
                        Split::Parts(parts) => self.partitions.extend(parts),
                        Split::Indivisible => {
                            too_large(&partition, failed(partition.to_string(), &status))?
                        }
                    }
                }
                Err(status) => return Err(failed("images".into(), &status)),
            }
        }
        Ok(None)
    }
}

fn request<Q>(
    namespace: Option<&Namespace>,
    headers: &HeaderMap,
    message: Q,
) -> std::result::Result<Request<Q>, Status> {
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
    request.metadata_mut().insert(DIRECT_HEADER, MetadataValue::from_static("1"));
    if let Some(namespace) = namespace {
        let value = MetadataValue::try_from(namespace.as_str())
            .map_err(|e| Status::internal(format!("namespace {namespace} in a header: {e}")))?;
        request.metadata_mut().insert("containerd-namespace", value);
    }
    Ok(request)
}
