//! Keeps a copy of the images of a namespace in a file, and prints every change: an example of list, then
//! watch, which never misses a change however often it is killed.
//!
//! ```text
//! watch_images SOCKET NAMESPACE FILE
//! ```
//!
//! FILE has the log's epoch, the last change that was handled, and the digest of each image. It is
//! replaced as a whole after each message: a watcher that is killed in between sees some changes again,
//! and since each change has the whole state, that does no harm. `examples/watch_images.py` does the same.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lmdb_images::api::catalog::watch_response::Is;
use lmdb_images::api::catalog::{ListRequest, ListResponse, WatchRequest, WatchResponse};
use lmdb_images::api::error_details::ErrorInfo;
use lmdb_images::api::status::Status;
use lmdb_images::containerd::codec::{EncodedCodec, decode, encode};
use protobuf::Message;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

const SERVICE: &str = "/lmdbimages.v1.Catalog";

/// How long to wait before a daemon that has gone is called again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the file has.
#[derive(Default, Serialize, Deserialize)]
struct Copy {
    epoch: String,
    seq: u64,
    digests: BTreeMap<String, String>,
}

impl Copy {
    /// Reads the file. An epoch that is empty stands for a copy that is still to be made.
    fn read(path: &Path) -> Result<Self> {
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(Self::default()) };
        Ok(serde_json::from_str(&text)?)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_string(self)?)?;
        Ok(std::fs::rename(new, path)?)
    }
}

struct Watcher {
    grpc: Grpc<Channel>,
    namespace: String,
    path: PathBuf,
    copy: Copy,
}

impl Watcher {
    /// Lists all pages. The copy is that of the first page's seq, or newer: watching from there puts right
    /// what changed between the pages.
    async fn list(&mut self) -> Result<()> {
        let (mut copy, mut token) = (Copy::default(), String::new());
        loop {
            let request = ListRequest { page_token: token, page_size: 1000, ..Default::default() };
            let mut request = tonic::Request::new(encode(&request)?);
            request.metadata_mut().insert("containerd-namespace", self.namespace.parse()?);
            self.grpc.ready().await?;
            let path = PathAndQuery::try_from(format!("{SERVICE}/List"))?;
            let page = self.grpc.unary(request, path, EncodedCodec).await?.into_inner();
            let page: ListResponse = decode(&page)?;
            (copy.epoch, copy.seq) = (page.epoch, page.seq);
            for listed in page.images {
                let image = listed.image.unwrap_or_default();
                copy.digests.insert(image.name, image.target.digest.clone());
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        println!("listed {} images at change {}", copy.digests.len(), copy.seq);
        self.copy = copy;
        self.copy.write(&self.path)
    }

    /// Watches until the stream ends.
    async fn watch(&mut self) -> Result<()> {
        let request = WatchRequest {
            epoch: self.copy.epoch.clone(),
            from: self.copy.seq + 1,
            namespaces: vec![self.namespace.clone()],
            ..WatchRequest::default()
        };
        println!("watching from change {}", request.from);
        self.grpc.ready().await?;
        let path = PathAndQuery::try_from(format!("{SERVICE}/Watch"))?;
        let request = tonic::Request::new(encode(&request)?);
        let stream = self.grpc.server_streaming(request, path, EncodedCodec).await?;
        let mut stream = stream.into_inner();
        while let Some(message) = stream.message().await? {
            let message: WatchResponse = decode(&message)?;
            match message.is {
                Some(Is::Changes(changes)) => {
                    for change in changes.changes {
                        let digest = change.after.as_ref().map(|after| &after.target.digest);
                        println!("change {} {} {digest:?}", change.seq, change.name);
                        match digest {
                            Some(digest) => {
                                self.copy.digests.insert(change.name.clone(), digest.clone())
                            }
                            None => self.copy.digests.remove(&change.name),
                        };
                        self.copy.seq = change.seq;
                    }
                }
                Some(Is::Progress(progress)) => self.copy.seq = progress.seq,
                _ => continue,
            }
            self.copy.write(&self.path)?;
        }
        Ok(())
    }

    /// Goes on until an error that trying again does not mend.
    async fn run(&mut self) -> Result<()> {
        loop {
            let ended = match self.copy.epoch.as_str() {
                "" => self.list().await,
                _ => self.watch().await,
            };
            let Err(error) = ended else { continue };
            let Some(status) = error.downcast_ref::<tonic::Status>() else { return Err(error) };
            match reason(status).as_str() {
                // What comes next is not known: all must be listed again.
                reason @ ("COMPACTED" | "EPOCH_CHANGED" | "AHEAD" | "PAGE_TOKEN") => {
                    println!("{reason}: listing again");
                    self.copy.epoch.clear();
                }
                _ if status.code() == Code::Unavailable || status.code() == Code::Unknown => {
                    println!("the daemon has gone; trying again");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                _ => return Err(error),
            }
        }
    }
}

/// The reason of an error, in its details.
fn reason(status: &tonic::Status) -> String {
    let details = Status::parse_from_bytes(status.details()).unwrap_or_default().details;
    let info = details.first().and_then(|any| any.unpack::<ErrorInfo>().ok()).flatten();
    info.unwrap_or_default().reason
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, namespace, file] = arguments.as_slice() else {
        return Err("watch_images SOCKET NAMESPACE FILE".into());
    };
    let socket = PathBuf::from(socket);
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
    let path = PathBuf::from(file);
    let copy = Copy::read(&path)?;
    let grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    let mut watcher = Watcher { grpc, namespace: namespace.clone(), path, copy };
    watcher.run().await
}
