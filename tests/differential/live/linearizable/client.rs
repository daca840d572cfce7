//! A client of one socket: it makes random calls, and records the answers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, GetImageResponse, Image,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use lmdb_images::api::imagestore::ImageStore;
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tonic::Code;

use super::operation::{ABSENT, DIGESTS, Effect, Operation, Value};
use crate::support::random::{Draw, Rng};
use crate::support::{Client, Failed, grpc};

/// Few, so that clients meet. The second namespace goes whenever it is empty.
pub const NAMESPACES: [&str; 2] = ["stays", "goes"];
pub const NAMES: [&str; 3] = ["a", "b/c:1", "d"];

/// What Transfers copy from: a name in the first namespace that never changes, and its value.
pub const SOURCE: (&str, Value) = ("source", 7);

/// How long an answer may take. Longer than the daemon waits for containerd.
const TEST_TIMEOUT: Duration = Duration::from_secs(40);

/// The clock of all clients, and their recorded operations.
pub struct Recorder {
    clock: AtomicU64,
    values: AtomicU32,
    pub operations: AtomicU64,
    /// By namespace and name.
    pub registers: Vec<Mutex<Vec<Operation>>>,
    pub stop: AtomicBool,
    pub knows_transfer: bool,
}

impl Recorder {
    pub fn new(knows_transfer: bool) -> Self {
        Self {
            clock: AtomicU64::default(),
            values: AtomicU32::new(SOURCE.1 + 1),
            operations: AtomicU64::default(),
            registers: (0..NAMESPACES.len() * NAMES.len()).map(|_| Mutex::default()).collect(),
            stop: AtomicBool::default(),
            knows_transfer,
        }
    }

    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    fn push(&self, register: usize, operation: Operation) {
        self.registers[register].lock().unwrap().push(operation);
    }
}

/// Which calls a socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    All,
    /// Images only.
    Images,
    Reads,
}

pub struct Caller {
    pub name: &'static str,
    pub socket: PathBuf,
    pub is_ttrpc: bool,
    pub calls: Calls,
}

/// Makes calls until `recorder` says stop.
pub async fn run(caller: &Caller, recorder: &Recorder, mut rng: Rng) {
    let mut connection = None;
    while !recorder.stop.load(SeqCst) {
        let Some(client) = &connection else {
            connection = connect(&caller.socket, caller.is_ttrpc).await;
            if connection.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        if !step(client, caller, recorder, &mut rng).await {
            connection = None;
        }
    }
}

async fn connect(socket: &Path, is_ttrpc: bool) -> Option<Client> {
    if is_ttrpc {
        let address = format!("unix://{}", socket.display());
        return ttrpc::r#async::Client::connect(&address).await.ok().map(Client::Ttrpc);
    }
    crate::support::channel(socket).await.ok().map(Client::Grpc)
}

fn image(name: &str, value: Value) -> Image {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest(value % DIGESTS),
        size: i64::from(value),
        ..Descriptor::default()
    };
    Image { name: name.into(), target: MessageField::some(target), ..Image::default() }
}

fn digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

fn value_of(image: &Image) -> Value {
    Value::try_from(image.target.size).unwrap()
}

/// One call. Returns whether the connection is still good.
async fn step(client: &Client, caller: &Caller, recorder: &Recorder, rng: &mut Rng) -> bool {
    let (ns, name) = (rng.usize(..NAMESPACES.len()), rng.usize(..NAMES.len()));
    let kind = match caller.calls {
        Calls::Reads => rng.usize(..50),
        Calls::Images => rng.usize(..97),
        Calls::All => rng.usize(..100),
    };
    let call = One { client, caller, recorder, ns, name };
    let value = recorder.values.fetch_add(1, SeqCst);
    match kind {
        0..25 => call.get().await,
        25..50 => {
            let filter = rng.u8(..4);
            call.list(filter, rng.u32(..DIGESTS)).await
        }
        50..70 => call.create(value).await,
        70..85 => call.update(value).await,
        85..97 => call.delete(rng.chance(20)).await,
        _ if ns == 0 && recorder.knows_transfer => call.transfer().await,
        _ => call.delete_namespace().await,
    }
}

struct One<'c> {
    client: &'c Client,
    caller: &'c Caller,
    recorder: &'c Recorder,
    ns: usize,
    name: usize,
}

/// The answer to a call, as far as the client knows it.
enum Answer {
    Reply(Vec<u8>),
    Code(i32),
    /// An error that promises that nothing was changed.
    Refused,
    /// The call was cut off, so its outcome is unknown.
    Unknown,
}

impl One<'_> {
    fn register(&self) -> usize {
        self.ns * NAMES.len() + self.name
    }

    fn named(&self) -> String {
        NAMES[self.name].into()
    }

    async fn ask(&self, service: &str, method: &str, message: &impl Message) -> Answer {
        let (namespace, bytes) = (Some(NAMESPACES[self.ns]), message.write_to_bytes().unwrap());
        let answer = async {
            match self.client {
                Client::Grpc(channel) => grpc(channel, service, method, namespace, bytes).await,
                Client::Ttrpc(_) => self.client.raw(method, namespace, bytes).await,
            }
        };
        let answer = tokio::time::timeout(TEST_TIMEOUT, answer).await;
        self.recorder.operations.fetch_add(1, SeqCst);
        match answer.unwrap_or_else(|_| panic!("{} hangs in {method}", self.caller.name)) {
            Ok(reply) => Answer::Reply(reply),
            Err(Failed { code, .. }) if code == Code::NotFound as i32 => Answer::Code(code),
            Err(Failed { code, .. }) if code == Code::AlreadyExists as i32 => Answer::Code(code),
            Err(failed) if failed.message.contains("nothing was changed") => Answer::Refused,
            Err(_) => Answer::Unknown,
        }
    }

    async fn images(&self, method: &str, message: &impl Message) -> Answer {
        self.ask(crate::support::IMAGES, method, message).await
    }

    fn record(&self, register: usize, begin: u64, end: u64, effect: Effect, in_doubt: bool) {
        let client = self.caller.name;
        self.recorder.push(register, Operation { client, effect, begin, end, in_doubt });
    }

    async fn get(&self) -> bool {
        let begin = self.recorder.tick();
        let request = GetImageRequest { name: self.named(), ..Default::default() };
        let answer = self.images("Get", &request).await;
        let end = self.recorder.tick();
        let value = match answer {
            Answer::Reply(bytes) => {
                value_of(&GetImageResponse::parse_from_bytes(&bytes).unwrap().image)
            }
            Answer::Code(_) => ABSENT,
            Answer::Refused | Answer::Unknown => return false,
        };
        self.record(self.register(), begin, end, Effect::Read(value), false);
        true
    }

    async fn list(&self, kind: u8, number: u32) -> bool {
        let filters = match kind {
            0 => vec![],
            1 => vec![format!("name=={:?}", NAMES[self.name])],
            2 => vec![format!("name~=^{}", &NAMES[self.name][..1])],
            _ => vec![format!("target.digest=={}", digest(number))],
        };
        let begin = self.recorder.tick();
        let request = ListImagesRequest { filters, ..Default::default() };
        let answer = self.images("List", &request).await;
        let end = self.recorder.tick();
        let Answer::Reply(bytes) = answer else { return false };
        let images = ListImagesResponse::parse_from_bytes(&bytes).unwrap().images;
        for (other, name) in NAMES.iter().enumerate() {
            if matches!(kind, 1 | 2) && other != self.name {
                continue;
            }
            let mut found = images.iter().filter(|image| image.name == *name);
            let effect = match found.next().map(value_of) {
                Some(value) => Effect::Read(value),
                None if kind == 3 => Effect::NotListed(number),
                None => Effect::Read(ABSENT),
            };
            assert!(found.next().is_none(), "{name} is listed twice");
            self.record(self.ns * NAMES.len() + other, begin, end, effect, false);
        }
        true
    }

    /// Records a write: its effect, or what a refusal shows.
    fn written(&self, begin: u64, answer: &Answer, effect: Effect) -> bool {
        let end = self.recorder.tick();
        let (end, effect, in_doubt) = match answer {
            Answer::Reply(_) => (end, effect, false),
            Answer::Code(code) if *code == Code::AlreadyExists as i32 => {
                (end, Effect::Present, false)
            }
            Answer::Code(_) => (end, Effect::Read(ABSENT), false),
            Answer::Refused => return true,
            // Until the end of the round, when containerd has started again.
            Answer::Unknown => (u64::MAX, effect, true),
        };
        self.record(self.register(), begin, end, effect, in_doubt);
        !in_doubt
    }

    async fn create(&self, value: Value) -> bool {
        let begin = self.recorder.tick();
        let image = MessageField::some(image(NAMES[self.name], value));
        let request = CreateImageRequest { image, ..Default::default() };
        let answer = self.images("Create", &request).await;
        self.written(begin, &answer, Effect::Create(value))
    }

    async fn update(&self, value: Value) -> bool {
        let begin = self.recorder.tick();
        let image = MessageField::some(image(NAMES[self.name], value));
        let request = UpdateImageRequest { image, ..Default::default() };
        let answer = self.images("Update", &request).await;
        self.written(begin, &answer, Effect::Update(value))
    }

    async fn delete(&self, sync: bool) -> bool {
        let begin = self.recorder.tick();
        let request = DeleteImageRequest { name: self.named(), sync, ..Default::default() };
        let answer = self.images("Delete", &request).await;
        self.written(begin, &answer, Effect::Delete)
    }

    /// Overwrites a name with a copy of the source.
    async fn transfer(&self) -> bool {
        let store = |name: &str| {
            let store = ImageStore { name: name.into(), ..Default::default() };
            MessageField::some(Any {
                type_url: "containerd.types.transfer.ImageStore".into(),
                value: store.write_to_bytes().unwrap(),
                ..Default::default()
            })
        };
        let request = TransferRequest {
            source: store(SOURCE.0),
            destination: store(NAMES[self.name]),
            ..Default::default()
        };
        let service = "containerd.services.transfer.v1.Transfer";
        let begin = self.recorder.tick();
        let answer = self.ask(service, "Transfer", &request).await;
        // It creates, or else updates: an image that comes or goes in between is an error that says little.
        let in_doubt = !matches!(answer, Answer::Reply(_));
        let is_over = !matches!(answer, Answer::Unknown);
        let end = if is_over { self.recorder.tick() } else { u64::MAX };
        self.record(self.register(), begin, end, Effect::Put(SOURCE.1), in_doubt);
        is_over
    }

    /// Takes a namespace away, which containerd refuses while it has images.
    async fn delete_namespace(&self) -> bool {
        let request = GetImageRequest { name: NAMESPACES[1].into(), ..Default::default() };
        let service = "containerd.services.namespaces.v1.Namespaces";
        self.ask(service, "Delete", &request).await;
        true
    }
}
