//! A client that speaks either protocol and shows bytes, codes and sentences as they came. Tools use it,
//! too.

#![allow(dead_code)] // No program uses all of it.

use std::path::Path;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{CreateImageRequest, Image};
use protobuf::{Message, MessageField};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

// containerd's services.
pub const CONTAINERS: &str = "containerd.services.containers.v1.Containers";
pub const EVENTS: &str = "containerd.services.events.v1.Events";
pub const IMAGES: &str = "containerd.services.images.v1.Images";
pub const INTROSPECTION: &str = "containerd.services.introspection.v1.Introspection";
pub const LEASES: &str = "containerd.services.leases.v1.Leases";
pub const NAMESPACES: &str = "containerd.services.namespaces.v1.Namespaces";
pub const TRANSFER: &str = "containerd.services.transfer.v1.Transfer";
pub const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Ttrpc,
}

pub const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Ttrpc];

/// A status that is not OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub code: i32,
    pub message: String,
}

impl Failed {
    pub fn is(&self, code: tonic::Code) -> bool {
        self.code == code as i32
    }
}

#[derive(Clone)]
pub enum Client {
    Grpc(Channel),
    Ttrpc(ttrpc::r#async::Client),
}

impl Client {
    pub async fn grpc(path: &Path) -> Self {
        Self::Grpc(channel(path).await.unwrap())
    }

    pub async fn ttrpc(path: &Path) -> Self {
        Self::Ttrpc(
            ttrpc::r#async::Client::connect(&format!("unix://{}", path.display())).await.unwrap(),
        )
    }

    /// One call of Images with bytes in and bytes out.
    pub async fn raw(
        &self,
        method: &str,
        namespace: Option<&str>,
        message: Vec<u8>,
    ) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Grpc(channel) => grpc(channel, IMAGES, method, namespace, message).await,
            Self::Ttrpc(client) => {
                let mut request = ttrpc::Request::new();
                request.service = IMAGES.into();
                request.method = method.into();
                request.payload = message;
                request.timeout_nano = 60_000_000_000;
                if let Some(namespace) = namespace {
                    request.metadata.push(ttrpc::proto::KeyValue {
                        key: "containerd-namespace-ttrpc".into(),
                        value: namespace.into(),
                        ..Default::default()
                    });
                }
                match client.request(request).await {
                    Ok(response) => Ok(response.payload),
                    Err(ttrpc::Error::RpcStatus(s)) => {
                        Err(Failed { code: s.code.value(), message: s.message })
                    }
                    Err(other) => Err(Failed { code: -1, message: other.to_string() }),
                }
            }
        }
    }

    pub async fn call<R: Message>(
        &self,
        method: &str,
        namespace: &str,
        message: &impl Message,
    ) -> Result<R, Failed> {
        let bytes = self.raw(method, Some(namespace), message.write_to_bytes().unwrap()).await?;
        Ok(R::parse_from_bytes(&bytes).unwrap())
    }
}

/// Its limit of headers is a client's usual one.
pub async fn channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    connect(Endpoint::from_static("http://localhost"), path).await
}

/// The same for the sentences of a containerd, which may repeat a name of 32 KiB.
pub async fn channel_for_long_errors(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(1 << 20);
    connect(endpoint, path).await
}

async fn connect(endpoint: Endpoint, path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    endpoint
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}

pub async fn grpc(
    channel: &Channel,
    service: &str,
    method: &str,
    namespace: Option<&str>,
    message: Vec<u8>,
) -> Result<Vec<u8>, Failed> {
    let mut request = tonic::Request::new(message);
    if let Some(namespace) = namespace {
        // As bytes: a test may send what no header should hold.
        let value = tonic::metadata::MetadataValue::try_from(namespace.as_bytes()).unwrap();
        request.metadata_mut().insert("containerd-namespace", value);
    }
    let failed =
        |s: tonic::Status| Failed { code: s.code() as i32, message: s.message().to_owned() };
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|e| Failed { code: -1, message: e.to_string() })?;
    let path = PathAndQuery::try_from(format!("/{service}/{method}")).unwrap();
    grpc.unary(request, path, Raw).await.map(tonic::Response::into_inner).map_err(failed)
}

/// Bytes as they are.
#[derive(Clone, Copy)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// A valid image.
pub fn image(name: &str) -> Image {
    Image {
        name: name.into(),
        target: MessageField::some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: DIGEST.into(),
            size: 1,
            ..Descriptor::default()
        }),
        ..Image::default()
    }
}

pub fn create(image: Image) -> CreateImageRequest {
    CreateImageRequest { image: MessageField::some(image), ..Default::default() }
}
