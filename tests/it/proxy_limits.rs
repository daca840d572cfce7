//! In front of a containerd: odd, large or very many records that clients make in containerd neither stop the daemon
//! from reading the others, nor make it keep more than its bounds allow.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::PublishRequest;
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::images::{
    GetImageRequest, GetImageResponse, Image, ListImagesRequest, ListImagesResponse,
};
use lmdb_images::api::namespace::{ListNamespacesResponse, Namespace as Record};
use lmdb_images::containerd::client::GrpcClient;
use lmdb_images::limits::memory::MemoryBudget;
use lmdb_images::model::Namespace;
use lmdb_images::model::filter::Filter;
use lmdb_images::proxy::images::ProxyImages;
use lmdb_images::proxy::{reconcile, watch};
use lmdb_images::service::local::LocalImages;
use lmdb_images::service::{CallContext, Images};
use lmdb_images::store::{Kind, Records, Store};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use crate::support::image;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What the fake containerd has.
struct Fake {
    namespaces: Mutex<Vec<String>>,
    /// By namespace and name.
    images: Mutex<BTreeMap<(String, String), Image>>,
    /// The name of an image that no reply can carry, in any namespace.
    too_large: Mutex<Option<String>>,
    /// How often the namespaces were listed.
    lists: AtomicUsize,
    /// Whether a list of namespaces fails.
    list_fails: Mutex<bool>,
    events: broadcast::Sender<Envelope>,
}

/// A status that is not OK.
type Refused = &'static str;

impl Fake {
    fn answer(&self, method: &str, namespace: &str, message: &[u8]) -> Result<Vec<u8>, Refused> {
        let images = || {
            let images = self.images.lock().unwrap();
            let here = images.iter().filter(|((ns, _), _)| ns == namespace);
            here.map(|(_, image)| image.clone()).collect::<Vec<_>>()
        };
        let is_too_large = |name: &str| self.too_large.lock().unwrap().as_deref() == Some(name);
        Ok(match method {
            "containerd.services.namespaces.v1.Namespaces/List" => {
                self.lists.fetch_add(1, Ordering::SeqCst);
                if *self.list_fails.lock().unwrap() {
                    return Err("8");
                }
                let record = |name: &String| Record { name: name.clone(), ..Default::default() };
                let namespaces = self.namespaces.lock().unwrap().iter().map(record).collect();
                let list = ListNamespacesResponse { namespaces, ..Default::default() };
                list.write_to_bytes().unwrap()
            }
            "containerd.services.images.v1.Images/List" => {
                let request = ListImagesRequest::parse_from_bytes(message).unwrap();
                let filter = Filter::parse_all(&request.filters).unwrap();
                let images: Vec<_> = images().into_iter().filter(|i| filter.matches(i)).collect();
                if images.iter().any(|image| is_too_large(&image.name)) {
                    return Err("8");
                }
                ListImagesResponse { images, ..Default::default() }.write_to_bytes().unwrap()
            }
            "containerd.services.images.v1.Images/Get" => {
                let name = GetImageRequest::parse_from_bytes(message).unwrap().name;
                if is_too_large(&name) {
                    return Err("8");
                }
                let image = images().into_iter().find(|i| i.name == name).ok_or("5")?;
                let image = MessageField::some(image);
                GetImageResponse { image, ..Default::default() }.write_to_bytes().unwrap()
            }
            "containerd.services.events.v1.Events/Publish" => {
                let request = PublishRequest::parse_from_bytes(message).unwrap();
                self.tell(namespace, &request.topic, request.event);
                Vec::new()
            }
            _ => return Err("12"),
        })
    }

    fn tell(&self, namespace: &str, topic: &str, event: MessageField<Any>) {
        let (namespace, topic) = (namespace.to_owned(), topic.to_owned());
        let _ = self.events.send(Envelope { namespace, topic, event, ..Default::default() });
    }

    fn make(&self, namespace: &str, name: &str) {
        let mut made = image(name);
        made.created_at = MessageField::some(Default::default());
        made.updated_at = MessageField::some(Default::default());
        self.images.lock().unwrap().insert((namespace.into(), name.into()), made);
        let event = ImageCreate { name: name.into(), ..Default::default() };
        let event = Any { value: event.write_to_bytes().unwrap(), ..Default::default() };
        self.tell(namespace, "/images/create", MessageField::some(event));
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn framed(message: &[u8]) -> Frame<Bytes> {
    let length = (message.len() as u32).to_be_bytes();
    Frame::data(Bytes::from([&[0][..], &length, message].concat()))
}

fn trailers(status: &'static str) -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )]))
}

async fn respond(fake: Arc<Fake>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let method = head.uri.path().trim_start_matches('/').to_owned();
    let subscription = fake.events.subscribe();
    let body = body.collect().await.unwrap().to_bytes();
    let body = if method.ends_with("Events/Subscribe") {
        let events = stream::unfold(subscription, |mut events| async {
            let event = events.recv().await.ok()?;
            Some((Ok(framed(&event.write_to_bytes().unwrap())), events))
        });
        StreamBody::new(events).boxed_unsync()
    } else {
        let namespace = head.headers.get("containerd-namespace");
        let namespace = namespace.map_or("", |value| value.to_str().unwrap());
        let frames = match fake.answer(&method, namespace, body.get(5..).unwrap_or_default()) {
            Ok(message) => vec![framed(&message), trailers("0")],
            Err(status) => vec![trailers(status)],
        };
        StreamBody::new(stream::iter(frames).map(Ok)).boxed_unsync()
    };
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// A front, with the fake containerd behind it.
struct Fronted {
    fake: Arc<Fake>,
    front: ProxyImages,
    _tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Fronted {
    async fn start(namespaces: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c.sock");
        let fake = Arc::new(Fake {
            namespaces: Mutex::new(namespaces.iter().map(|name| name.to_string()).collect()),
            images: Mutex::default(),
            too_large: Mutex::default(),
            lists: AtomicUsize::new(0),
            list_fails: Mutex::default(),
            events: broadcast::channel(10_000).0,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(UnixListener::bind(&socket).unwrap(), Arc::clone(&fake)));
        let front = front(&socket, &dir.path().join("root"));
        tasks.spawn(watch::run(front.clone()));
        tasks.spawn(reconcile::run(front.clone()));
        Self { fake, front, _tasks: tasks, _dir: dir }
    }

    async fn until(&self, what: impl Fn(&Self) -> bool, why: &str) {
        let waited = tokio::time::timeout(TEST_TIMEOUT, async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect(why);
    }

    fn is_current(&self, namespace: &str) -> bool {
        self.front.sync_state().watched_since_sync(&Namespace::parse(namespace).unwrap())
    }

    /// Whether LMDB has an image of that name.
    fn has(&self, namespace: &str, name: &str) -> bool {
        let namespace = Namespace::parse(namespace).unwrap();
        let store = self.front.local().store();
        store.read(|s| Ok(s.record(&namespace, Kind::Image, name)?.is_some())).unwrap()
    }

    /// The names that LMDB has.
    async fn names(&self, namespace: &str) -> Vec<String> {
        let reply = self.front.local().list(&call(namespace), ListImagesRequest::new()).await;
        let images = ListImagesResponse::parse_from_bytes(&reply.unwrap().message).unwrap().images;
        images.into_iter().map(|image| image.name).collect()
    }
}

fn front(socket: &Path, root: &Path) -> ProxyImages {
    let local = LocalImages::new(Store::open(root).unwrap(), MemoryBudget::new(64 << 20));
    ProxyImages::new(GrpcClient::lazy(socket), local, None)
}

fn call(namespace: &str) -> CallContext {
    CallContext {
        namespace: Some(namespace.into()),
        client: lmdb_images::limits::client::Client::Own,
        actor: lmdb_images::store::Actor::default(),
        reply_limit: 16 << 20,
        headers: HeaderMap::new(),
    }
}

async fn accept(listener: UnixListener, fake: Arc<Fake>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let fake = Arc::clone(&fake);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let fake = Arc::clone(&fake);
                async move { Ok::<_, Infallible>(respond(fake, request).await) }
            });
            let http = http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_an_unknown_namespace_stores_nothing() {
    let fronted = Fronted::start(&["n"]).await;
    fronted.until(|f| f.front.sync_state().is_watching(), "it follows").await;
    fronted.fake.make("n", "a");
    fronted.until(|f| f.is_current("n"), "it is read").await;
    for number in 0..300 {
        let call = call(&format!("x{number}"));
        fronted.front.list(&call, ListImagesRequest::new()).await.unwrap();
        let get = GetImageRequest { name: "a".into(), ..Default::default() };
        fronted.front.get(&call, get).await.unwrap_err();
        let event = Any { value: b"\x0a\x01a".to_vec(), ..Default::default() };
        let ns = call.namespace.unwrap();
        fronted.fake.tell(&ns, "/images/create", MessageField::some(event));
    }
    // What comes after them is read: so they are, too.
    fronted.fake.make("m", "a");
    fronted.until(|f| f.is_current("m"), "it is read").await;
    assert_eq!(fronted.front.sync_state().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_namespace_or_image_does_not_block_the_others() {
    let fronted = Fronted::start(&["-", "n", &"x".repeat(100), "o"]).await;
    for name in ["a", "odd", "z"] {
        fronted.fake.make("n", name);
    }
    *fronted.fake.too_large.lock().unwrap() = Some("odd".into());
    fronted.fake.make("o", "b");
    fronted.until(|f| f.is_current("n") && f.is_current("o"), "they are read").await;
    // A namespace that was read before its images were made is current, and gets them by their events.
    let all = |f: &Fronted| f.has("n", "a") && f.has("n", "z") && f.has("o", "b");
    fronted.until(all, "each image is read").await;
    assert_eq!(fronted.names("n").await, ["a", "z"]);
    assert_eq!(fronted.names("o").await, ["b"]);
    // An event of the odd ones does not end following.
    fronted.fake.tell("-", "/namespaces/update", MessageField::none());
    fronted.fake.make("n", "odd");
    fronted.fake.make("o", "c");
    fronted.until(|f| f.has("o", "c"), "it is followed").await;
    assert!(fronted.front.sync_state().is_watching());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_list_of_namespaces_blocks_no_image() {
    let fronted = Fronted::start(&["n"]).await;
    *fronted.fake.list_fails.lock().unwrap() = true;
    fronted.until(|f| f.front.sync_state().is_watching(), "it follows").await;
    fronted.fake.make("n", "a");
    fronted.until(|f| f.is_current("n"), "it is read").await;
    *fronted.fake.list_fails.lock().unwrap() = false;
    fronted.fake.images.lock().unwrap().insert(("q".into(), "b".into()), image("b"));
    fronted.fake.namespaces.lock().unwrap().push("q".into());
    fronted.until(|f| f.is_current("q"), "it is listed again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_namespace_events_cause_one_list_and_delay_no_image() {
    let fronted = Fronted::start(&["n"]).await;
    fronted.until(|f| f.front.sync_state().is_watching(), "it follows").await;
    fronted.fake.make("n", "a");
    fronted.until(|f| f.is_current("n"), "it is read").await;
    for number in 0..3000 {
        fronted.fake.namespaces.lock().unwrap().push(format!("x{number}"));
        fronted.fake.tell(&format!("x{number}"), "/namespaces/create", MessageField::none());
    }
    fronted.fake.make("n", "b");
    fronted.until(|f| f.has("n", "b"), "it is followed").await;
    let last = Namespace::parse("x2999").unwrap();
    let there =
        |f: &Fronted| f.front.local().store().read(|s| Ok(s.namespace(&last)?.is_some())).unwrap();
    fronted.until(there, "they are listed").await;
    let lists = fronted.fake.lists.load(Ordering::SeqCst);
    assert!(lists < 300, "{lists} lists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_reply_of_containerd_waits_for_its_reservation() {
    let fronted = Fronted::start(&[]).await;
    let mut large = image("large");
    large.target.as_mut().unwrap().annotations.insert("a".into(), "x".repeat(100_000));
    for image in [image("small"), large] {
        let key = ("n".into(), image.name.clone());
        fronted.fake.images.lock().unwrap().insert(key, image);
    }
    // No task follows its events, so every read asks it.
    let dir = tempfile::tempdir().unwrap();
    let local = LocalImages::new(Store::open(dir.path()).unwrap(), MemoryBudget::new(20 << 20));
    let front =
        ProxyImages::new(GrpcClient::lazy(fronted.front.containerd().socket()), local, None);
    let get = |name: &str| {
        let (front, name) = (front.clone(), name.to_owned());
        async move {
            let get = GetImageRequest { name, ..Default::default() };
            let reply = front.get(&call("n"), get).await?;
            let found = GetImageResponse::parse_from_bytes(&reply.message).unwrap();
            Ok::<_, lmdb_images::model::Error>((
                found.image.name.clone(),
                reply.reservation.is_some(),
            ))
        }
    };
    assert_eq!(get("small").await.unwrap(), ("small".into(), false));
    assert_eq!(get("large").await.unwrap(), ("large".into(), true));
    let all =
        front.local().reserve(lmdb_images::limits::client::Client::Process(1), usize::MAX).await;
    assert_eq!(get("small").await.unwrap(), ("small".into(), false));
    let list = || async { front.list(&call("n"), ListImagesRequest::new()).await };
    let mut waiting = (Box::pin(get("large")), Box::pin(list()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting.0).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting.1).await.is_err());
    drop(all);
    assert_eq!(waiting.0.await.unwrap().0, "large");
    let listed = ListImagesResponse::parse_from_bytes(&waiting.1.await.unwrap().message).unwrap();
    assert_eq!(listed.images.len(), 2);
}
