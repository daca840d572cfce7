//! A small client of the Images service, over either protocol, to be read as an example and used
//! by scripts.
//!
//! ```text
//! images SOCKET NAMESPACE get NAME
//! images SOCKET NAMESPACE list [FILTER…]
//! images SOCKET NAMESPACE create NAME DIGEST SIZE [MEDIA-TYPE]
//! images SOCKET NAMESPACE delete NAME
//! images SOCKET NAMESPACE fill COUNT BYTES       images of about that size, all of one target
//! images SOCKET NAMESPACE raw METHOD [HEX]       the request as bytes, for tests
//! images SOCKET NAMESPACE forward TOPIC          an event, as shims send it: over ttrpc only
//! ```
//!
//! A socket whose name ends in `.ttrpc` is spoken to in ttrpc, any other in gRPC. Prints the reply
//! as protobuf text; a status that is not OK goes to stderr as `CODE: sentence`, with exit code 1.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::ForwardRequest;
use lmdb_images::api::image_events::ImageDelete;
use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use lmdb_images::containerd::codec::{EncodedCodec, decode, encode};
use protobuf::well_known_types::empty::Empty;
use protobuf::{Enum, Message, MessageFull};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

const SERVICE: &str = "containerd.services.images.v1.Images";
const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Client {
    socket: PathBuf,
    namespace: String,
}

impl Client {
    async fn call<Q: Message, R: MessageFull>(&self, method: &str, request: Q) -> Result<String> {
        let reply: R = if self.socket.extension().is_some_and(|e| e == "ttrpc") {
            self.ttrpc(SERVICE, method, &request).await?
        } else {
            self.grpc(method, request).await?
        };
        Ok(protobuf::text_format::print_to_string_pretty(&reply))
    }

    async fn ttrpc<R: Message>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<R> {
        let address = format!("unix://{}", self.socket.display());
        let client = ttrpc::r#async::Client::connect(&address).await?;
        let mut call = ttrpc::Request::new();
        call.service = service.into();
        call.method = method.into();
        call.payload = request.write_to_bytes()?;
        call.metadata = vec![ttrpc::proto::KeyValue {
            key: "containerd-namespace-ttrpc".into(),
            value: self.namespace.clone(),
            ..Default::default()
        }];
        match client.request(call).await {
            Ok(response) => Ok(R::parse_from_bytes(&response.payload)?),
            Err(ttrpc::Error::RpcStatus(s)) => Err(format!("{:?}: {}", s.code(), s.message).into()),
            Err(other) => Err(other.into()),
        }
    }

    async fn grpc<Q: Message, R: Message>(&self, method: &str, request: Q) -> Result<R> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(connect).await?;
        let mut request = tonic::Request::new(encode(&request)?);
        request.metadata_mut().insert("containerd-namespace", self.namespace.parse()?);
        let path = PathAndQuery::try_from(format!("/{SERVICE}/{method}"))?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await?;
        match grpc.unary(request, path, EncodedCodec).await {
            Ok(reply) => Ok(decode(reply.get_ref())?),
            Err(status) => {
                // As ttrpc names codes, which is how the protocols do.
                let code = ttrpc::Code::from_i32(status.code() as i32);
                Err(format!("{:?}: {}", code.unwrap_or(ttrpc::Code::UNKNOWN), status.message())
                    .into())
            }
        }
    }
}

async fn run(arguments: &[&str]) -> Result<String> {
    let [socket, namespace, command, rest @ ..] = arguments else {
        return Err("images SOCKET NAMESPACE get|list|create|delete|fill|raw|forward …".into());
    };
    let client = Client { socket: socket.into(), namespace: (*namespace).into() };
    match (*command, rest) {
        ("get", [name]) => {
            let request = GetImageRequest { name: (*name).into(), ..Default::default() };
            client.call::<_, GetImageResponse>("Get", request).await
        }
        ("list", filters) => {
            let filters = filters.iter().map(|f| (*f).to_owned()).collect();
            let request = ListImagesRequest { filters, ..Default::default() };
            client.call::<_, ListImagesResponse>("List", request).await
        }
        ("create", [name, digest, size, kind @ ..]) => {
            let mut image = Image { name: (*name).into(), ..Default::default() };
            let target = image.target.mut_or_insert_default();
            target.digest = (*digest).into();
            target.size = size.parse()?;
            target.media_type =
                kind.first().unwrap_or(&"application/vnd.oci.image.manifest.v1+json").to_string();
            let request = CreateImageRequest { image: Some(image).into(), ..Default::default() };
            client.call::<_, CreateImageResponse>("Create", request).await
        }
        ("delete", [name]) => {
            let request = DeleteImageRequest { name: (*name).into(), ..Default::default() };
            client.call::<_, Empty>("Delete", request).await
        }
        ("forward", [topic]) => {
            let event = ImageDelete { name: "forwarded".into(), ..Default::default() };
            let mut envelope = Envelope {
                timestamp: Some(SystemTime::now().into()).into(),
                namespace: client.namespace.clone(),
                topic: (*topic).into(),
                ..Default::default()
            };
            let any = envelope.event.mut_or_insert_default();
            any.type_url = "containerd.services.images.v1.ImageDelete".into();
            any.value = event.write_to_bytes()?;
            let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
            let _: Empty = client.ttrpc(EVENTS, "Forward", &request).await?;
            Ok(String::new())
        }
        ("fill", [count, bytes]) => {
            for number in 0..count.parse()? {
                let mut image = Image { name: format!("filler/{number:06}"), ..Default::default() };
                let target = image.target.mut_or_insert_default();
                target.media_type = "application/vnd.oci.image.manifest.v1+json".into();
                target.digest = format!("sha256:{}", "0".repeat(64));
                target.size = 1;
                target.annotations.insert("filler".into(), "x".repeat(bytes.parse()?));
                let request =
                    CreateImageRequest { image: Some(image).into(), ..Default::default() };
                client.call::<_, CreateImageResponse>("Create", request).await?;
            }
            Ok(format!("{count} images\n"))
        }
        ("raw", [method, hex @ ..]) => {
            let bytes = unhex(hex.first().unwrap_or(&""))?;
            match *method {
                "Get" => {
                    client
                        .call::<_, GetImageResponse>(
                            method,
                            GetImageRequest::parse_from_bytes(&bytes)?,
                        )
                        .await
                }
                "List" => {
                    client
                        .call::<_, ListImagesResponse>(
                            method,
                            ListImagesRequest::parse_from_bytes(&bytes)?,
                        )
                        .await
                }
                "Create" => {
                    client
                        .call::<_, CreateImageResponse>(
                            method,
                            CreateImageRequest::parse_from_bytes(&bytes)?,
                        )
                        .await
                }
                "Update" => {
                    client
                        .call::<_, UpdateImageResponse>(
                            method,
                            UpdateImageRequest::parse_from_bytes(&bytes)?,
                        )
                        .await
                }
                "Delete" => {
                    client
                        .call::<_, Empty>(method, DeleteImageRequest::parse_from_bytes(&bytes)?)
                        .await
                }
                _ => Err(format!("no method {method}").into()),
            }
        }
        _ => Err(format!("{command}: no such command, or not its arguments").into()),
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|i| Ok(u8::from_str_radix(text.get(i..i + 2).ok_or("an odd number of digits")?, 16)?))
        .collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
