//! A client of one life of the daemon: it makes random calls over one connection and records them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, GetImageResponse, ListImagesRequest,
    ListImagesResponse, UpdateImageRequest,
};
use protobuf::{Message, MessageField};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::model::{
    Call, DIGEST_COUNT, Filter, GROUP_COUNT, NAMES, Operation, Outcome, Record, WriteId, digest,
    time,
};
use crate::support::{IMAGES, Raw};

pub const NAMESPACE: &str = "histories";

/// Calls in doubt while the daemon lives: each doubles what the checker has to try.
const MAX_CANCELLED: u32 = 2;

/// The clock of all calls, and the numbers of writes.
#[derive(Default)]
pub struct Recorder {
    clock: AtomicU64,
    writes: AtomicU32,
}

impl Recorder {
    /// The next tick. What began after something had ended has a later one.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    fn write(&self) -> WriteId {
        self.writes.fetch_add(1, SeqCst) + 1
    }
}

/// What the clients of a life share.
#[derive(Default)]
pub struct Life {
    pub paused: AtomicBool,
    pub cancelled: AtomicU32,
}

/// A connection that is never made again.
pub enum Connection {
    Grpc(Channel),
    Ttrpc(ttrpc::r#async::Client),
}

/// Why a call has no reply.
enum CallError {
    /// By a status that the daemon sent.
    Status(i32, String),
    Disconnected,
}

impl Connection {
    pub async fn grpc(state: &Path) -> Self {
        let stream = UnixStream::connect(state.join("images.sock")).await.unwrap();
        let mut stream = Some(TokioIo::new(stream));
        let once = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| std::io::Error::other("already used"));
            std::future::ready(stream)
        });
        let endpoint = Endpoint::from_static("http://localhost");
        Self::Grpc(endpoint.connect_with_connector(once).await.unwrap())
    }

    pub async fn ttrpc(state: &Path) -> Self {
        let address = format!("unix://{}", state.join("images.sock.ttrpc").display());
        Self::Ttrpc(ttrpc::r#async::Client::connect(&address).await.unwrap())
    }

    async fn call(&self, method: &str, message: &impl Message) -> Result<Vec<u8>, CallError> {
        let message = message.write_to_bytes().unwrap();
        match self {
            Self::Grpc(channel) => grpc(channel.clone(), method, message).await,
            Self::Ttrpc(client) => ttrpc(client, method, message).await,
        }
    }
}

async fn grpc(channel: Channel, method: &str, message: Vec<u8>) -> Result<Vec<u8>, CallError> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().unwrap());
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|_| CallError::Disconnected)?;
    let path = PathAndQuery::try_from(format!("/{IMAGES}/{method}")).unwrap();
    grpc.unary(request, path, Raw).await.map(tonic::Response::into_inner).map_err(|status| {
        // What tonic makes of a broken connection has a source.
        let local = std::error::Error::source(&status).is_some() || status.code() == Code::Unknown;
        if local {
            CallError::Disconnected
        } else {
            CallError::Status(status.code() as i32, status.message().into())
        }
    })
}

async fn ttrpc(
    client: &ttrpc::r#async::Client,
    method: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, CallError> {
    let mut request = ttrpc::Request::new();
    request.service = IMAGES.into();
    request.method = method.into();
    request.payload = message;
    request.timeout_nano = 60_000_000_000;
    request.metadata.push(ttrpc::proto::KeyValue {
        key: "containerd-namespace-ttrpc".into(),
        value: NAMESPACE.into(),
        ..Default::default()
    });
    match client.request(request).await {
        Ok(response) => Ok(response.payload),
        Err(ttrpc::Error::RpcStatus(s)) => Err(CallError::Status(s.code.value(), s.message)),
        Err(_) => Err(CallError::Disconnected),
    }
}

/// One client.
pub struct Client {
    pub name: String,
    pub connection: Connection,
    pub recorder: Arc<Recorder>,
    pub life: Arc<Life>,
    pub random: fastrand::Rng,
}

impl Client {
    /// Makes calls until the connection ends. Gives them, or what no daemon may answer.
    pub async fn run(mut self) -> Result<Vec<Call>, String> {
        let mut calls = Vec::new();
        loop {
            while self.life.paused.load(SeqCst) {
                sleep(Duration::from_millis(2)).await;
            }
            let operation = self.choose();
            let begin = self.recorder.tick();
            let (outcome, cut) = self.perform(operation).await?;
            let end = if outcome == Outcome::Unknown { u64::MAX } else { self.recorder.tick() };
            calls.push(Call { client: self.name.clone(), operation, outcome, begin, end });
            if cut {
                return Ok(calls);
            }
        }
    }

    fn choose(&mut self) -> Operation {
        let name = self.random.usize(..NAMES.len());
        match self.random.u32(..20) {
            0..4 => Operation::Get(name),
            4..8 => Operation::List(self.filter()),
            8..12 => Operation::Create(name, self.recorder.write()),
            12..15 => Operation::Update(name, self.recorder.write()),
            15..17 => Operation::Mark(name, self.recorder.write()),
            17..19 => Operation::Delete(name, None),
            _ => Operation::Delete(name, Some(self.random.u32(..DIGEST_COUNT))),
        }
    }

    fn filter(&mut self) -> Filter {
        match self.random.u32(..7) {
            0..3 => Filter::All,
            3 => Filter::Name(self.random.usize(..NAMES.len())),
            4 => Filter::Prefix(*self.random.choice(&['a', 'b']).unwrap()),
            5 => Filter::Digest(self.random.u32(..DIGEST_COUNT)),
            _ => Filter::Group(self.random.u32(..GROUP_COUNT)),
        }
    }

    /// One call; and whether the connection has ended.
    async fn perform(&mut self, operation: Operation) -> Result<(Outcome, bool), String> {
        let limit = self.call_timeout(operation);
        // One in 50 writes is not valid.
        let invalid = self.random.u32(..50) == 0;
        let answer = timeout(limit, self.request(operation, invalid)).await;
        let (code, message) = match answer {
            Err(_) if limit >= Duration::from_secs(1) => {
                return Err(format!("{}: no answer to {operation:?}", self.name));
            }
            Err(_) => return Ok((Outcome::Unknown, false)),
            Ok(Err(CallError::Disconnected)) => return Ok((Outcome::Unknown, true)),
            Ok(Ok(bytes)) => return parse_reply(operation, &bytes).map(|outcome| (outcome, false)),
            Ok(Err(CallError::Status(code, message))) => (code, message),
        };
        let has_code = |wanted: Code| code == wanted as i32;
        if has_code(Code::AlreadyExists) {
            Ok((Outcome::AlreadyExists, false))
        } else if has_code(Code::NotFound) {
            Ok((Outcome::NotFound, false))
        } else if message.contains("unknown whether") {
            Ok((Outcome::Unknown, false))
        } else if has_code(Code::Unavailable) || (has_code(Code::InvalidArgument) && invalid) {
            Ok((Outcome::Refused, false))
        } else {
            Err(format!("{}: {operation:?} is answered {code}: {message}", self.name))
        }
    }

    /// How long it waits for the answer: some clients go away in the middle of a write.
    fn call_timeout(&mut self, operation: Operation) -> Duration {
        let goes_away = operation.is_write()
            && self.random.u32(..40) == 0
            && self.life.cancelled.fetch_add(1, SeqCst) < MAX_CANCELLED;
        if goes_away {
            Duration::from_micros(self.random.u64(..3_000))
        } else {
            Duration::from_secs(50)
        }
    }

    async fn request(&self, operation: Operation, invalid: bool) -> Result<Vec<u8>, CallError> {
        let image = |name: usize, write| {
            let mut image = Record::new(write).image(name);
            if invalid {
                image.labels.insert("too-long".into(), "x".repeat(5_000));
            }
            MessageField::some(image)
        };
        let epoch = |write| MessageField::some(time(write));
        match operation {
            Operation::Get(name) => {
                let request = GetImageRequest { name: NAMES[name].into(), ..Default::default() };
                self.connection.call("Get", &request).await
            }
            Operation::List(filter) => {
                let request = ListImagesRequest { filters: filter.text(), ..Default::default() };
                self.connection.call("List", &request).await
            }
            Operation::Create(name, write) => {
                let request = CreateImageRequest {
                    image: image(name, write),
                    source_date_epoch: epoch(write),
                    ..Default::default()
                };
                self.connection.call("Create", &request).await
            }
            Operation::Update(name, write) | Operation::Mark(name, write) => {
                let mut request = UpdateImageRequest {
                    image: image(name, write),
                    source_date_epoch: epoch(write),
                    ..Default::default()
                };
                if matches!(operation, Operation::Mark(..)) {
                    request.update_mask.mut_or_insert_default().paths.push("labels.mark".into());
                }
                self.connection.call("Update", &request).await
            }
            Operation::Delete(name, wanted) => {
                let mut request =
                    DeleteImageRequest { name: NAMES[name].into(), ..Default::default() };
                if let Some(number) = wanted {
                    request.target.mut_or_insert_default().digest = digest(number);
                }
                self.connection.call("Delete", &request).await
            }
        }
    }
}

/// What a reply says.
fn parse_reply(operation: Operation, bytes: &[u8]) -> Result<Outcome, String> {
    let parsed = |e| format!("{operation:?}: the reply cannot be parsed: {e}");
    match operation {
        Operation::Delete(..) => Ok(Outcome::Done),
        Operation::List(_) => {
            let reply = ListImagesResponse::parse_from_bytes(bytes).map_err(parsed)?;
            let listed: Result<_, _> = reply.images.iter().map(Record::of).collect();
            Ok(Outcome::Listed(listed?))
        }
        // Replies of Create and Update have the same field.
        Operation::Get(name)
        | Operation::Create(name, _)
        | Operation::Update(name, _)
        | Operation::Mark(name, _) => {
            let reply = GetImageResponse::parse_from_bytes(bytes).map_err(parsed)?;
            let (found, record) = Record::of(&reply.image)?;
            if found == name {
                Ok(Outcome::Found(record))
            } else {
                Err(format!("{operation:?}: the reply is of {}", NAMES[found]))
            }
        }
    }
}
