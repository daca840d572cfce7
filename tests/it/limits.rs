//! Clients that misbehave: each is bounded, told or disconnected, and the others are served.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use lmdb_images::daemon::sockets::{Access, Socket};
use lmdb_images::limits::memory::MemoryBudget;
use lmdb_images::model::Result;
use lmdb_images::service::catalog::Catalog;
use lmdb_images::service::local::LocalImages;
use lmdb_images::service::{CallContext, Images, Reply};
use lmdb_images::store::Store;
use lmdb_images::transport::Limits;
use lmdb_images::transport::conn::admission::Admission;
use lmdb_images::transport::conn::listener;
use lmdb_images::transport::conn::workers::WorkerPool;
use lmdb_images::transport::grpc::message::Body;
use lmdb_images::transport::grpc::server::{GrpcServer, IncomingCall, Router};
use lmdb_images::transport::ttrpc::server::TtrpcServer;
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;

use crate::support;
use crate::support::{BOTH, Client, Protocol, Served, create, image};

/// Long enough for a busy machine, short against the test's patience.
const SOON: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

fn hasty() -> Limits {
    Limits { message_time: SOON, unread_time: SOON, ..Limits::default() }
}

/// Whether the other side ends the connection.
async fn is_ended(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    // A reset is an end too.
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

async fn is_served(served: &Served) {
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let everything = ListImagesRequest::new();
        let listed = client.call::<ListImagesResponse>("List", "n", &everything);
        tokio::time::timeout(PATIENCE, listed).await.unwrap().unwrap();
    }
}

/// A ttrpc frame with a Get in it.
fn get_frame(stream: u32) -> Vec<u8> {
    let mut request = ttrpc::Request::new();
    request.service = support::IMAGES.into();
    request.method = "Get".into();
    request.payload =
        GetImageRequest { name: "i".into(), ..Default::default() }.write_to_bytes().unwrap();
    request.metadata = vec![ttrpc::proto::KeyValue {
        key: "containerd-namespace-ttrpc".into(),
        value: "n".into(),
        ..Default::default()
    }];
    frame(stream, &request.write_to_bytes().unwrap())
}

fn frame(stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = ttrpc::proto::MessageHeader::new_request(stream, payload.len() as u32);
    [Vec::from(header), payload.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_at_once() {
    let served = Served::with(Limits { connections: 2, ..Limits::default() }).await;
    for path in [served.daemon.grpc(), served.daemon.ttrpc()] {
        let first = UnixStream::connect(path).await.unwrap();
        let second = UnixStream::connect(path).await.unwrap();
        let mut third = UnixStream::connect(path).await.unwrap();
        assert!(is_ended(&mut third).await);
        drop((first, second));
    }
    // Once the others are gone there is room again; when they are seen to be is up to the daemon.
    tokio::time::timeout(PATIENCE, async {
        while served.client(Protocol::Ttrpc).await.raw("List", Some("n"), Vec::new()).await.is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ttrpc_is_disconnected() {
    let served = Served::with(hasty()).await;
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 10]]
    {
        let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_ended(&mut stream).await, "{bytes:?}");
    }
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_frame_is_given_a_time() {
    let served = Served::with(hasty()).await;
    let whole = get_frame(1);
    for cut in [1, 9, 10, whole.len() - 1] {
        let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
        stream.write_all(&whole[..cut]).await.unwrap();
        assert!(is_ended(&mut stream).await, "after {cut} bytes");
    }
    // Between frames a client may be silent for as long as it likes.
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    stream.write_all(&whole).await.unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).await.unwrap();
    let mut rest = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut rest).await.unwrap();
    let silent = tokio::time::timeout(SOON * 3, stream.read_u8()).await;
    assert!(silent.is_err(), "{silent:?}");
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_is_answered_and_the_connection_lives() {
    let served = Served::start().await;
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    stream.write_all(&frame(1, &vec![0; (4 << 20) + 1])).await.unwrap();
    stream.write_all(&get_frame(3)).await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..2 {
        let mut header = [0; 10];
        stream.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        codes.push(ttrpc::Response::parse_from_bytes(&payload).unwrap().status.code.value());
    }
    assert_eq!(codes, [Code::InvalidArgument as i32, Code::NotFound as i32]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_or_says_nothing_is_disconnected() {
    let served = Served::with(hasty()).await;
    for bytes in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100]] {
        let mut stream = UnixStream::connect(served.daemon.grpc()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_ended(&mut stream).await, "{bytes:?}");
    }
    is_served(&served).await;
}

/// A call of Images/List by hand, with a body that the test makes.
async fn hyper_call(
    path: &Path,
    window: u32,
    frames: Vec<Bytes>,
    open_end: bool,
    deadline: &str,
) -> (http::Response<hyper::body::Incoming>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TokioIo::new(UnixStream::connect(path).await.unwrap());
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http.initial_stream_window_size(window);
    let (mut sender, connection) = http.handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let sent = futures_util::stream::iter(
        frames.into_iter().map(|f| Ok::<_, std::io::Error>(Frame::data(f))),
    );
    let rest = futures_util::stream::once(async move {
        if open_end {
            std::future::pending::<()>().await;
        }
        Ok(Frame::data(Bytes::new()))
    });
    let body = StreamBody::new(futures_util::StreamExt::chain(sent, rest));
    let request = http::Request::post(format!("http://localhost/{}/List", support::IMAGES))
        .header("content-type", "application/grpc")
        .header("containerd-namespace", "n")
        .header("grpc-timeout", deadline)
        .body(body.boxed_unsync())
        .unwrap();
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    (response.unwrap().unwrap(), connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_grpc_message_is_given_a_time() {
    let served = Served::with(hasty()).await;
    for half in [&b""[..], b"\0\0", b"\0\0\0\0\x05ab"] {
        let (response, _) = hyper_call(
            served.daemon.grpc(),
            65_535,
            vec![Bytes::copy_from_slice(half)],
            true,
            "60S",
        )
        .await;
        let code = response.headers()["grpc-status"].to_str().unwrap().to_owned();
        assert_eq!(code, (Code::DeadlineExceeded as i32).to_string());
    }
    for (cut, code) in [
        (&b""[..], Code::InvalidArgument),
        (b"\0\0\0\0\x05ab", Code::InvalidArgument),
        (b"\x01\0\0\0\0", Code::Unimplemented),
    ] {
        let (response, _) = hyper_call(
            served.daemon.grpc(),
            65_535,
            vec![Bytes::copy_from_slice(cut)],
            false,
            "60S",
        )
        .await;
        assert_eq!(response.headers()["grpc-status"].to_str().unwrap(), (code as i32).to_string());
    }
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_the_client_is_kept() {
    let served = Served::start().await;
    // The message never comes: only the deadline can end the call.
    let (response, _) = hyper_call(served.daemon.grpc(), 65_535, Vec::new(), true, "50m").await;
    assert_eq!(response.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
    assert_eq!(response.headers()["grpc-message"], "context%20deadline%20exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_that_does_not_read_its_reply_is_disconnected() {
    let served = Served::with(hasty()).await;
    let client = served.client(Protocol::Grpc).await;
    for i in 0..20 {
        let mut image = image(&format!("{i}"));
        image.target.as_mut().unwrap().annotations.insert("filler".into(), "x".repeat(100_000));
        client.call::<CreateImageResponse>("Create", "n", &create(image)).await.unwrap();
    }
    // Its window lets one byte of the reply come, and it reads none.
    let message = vec![Bytes::from_static(b"\0\0\0\0\0")];
    let (unread, connection) = hyper_call(served.daemon.grpc(), 1, message, false, "60S").await;
    assert!(tokio::time::timeout(PATIENCE, connection).await.is_ok());
    drop(unread);
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttrpc_client_that_does_not_read_is_not_read_and_then_disconnected() {
    let patient = Duration::from_secs(3);
    let served = Served::with(Limits { calls: 8, unread_time: patient, ..Limits::default() }).await;
    let client = served.client(Protocol::Ttrpc).await;
    let mut big = image("i");
    big.target.as_mut().unwrap().annotations.insert("filler".into(), "x".repeat(10_000));
    client.call::<CreateImageResponse>("Create", "n", &create(big)).await.unwrap();
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    let mut sent = 0;
    let ended = tokio::time::timeout(PATIENCE, async {
        while stream.write_all(&get_frame(2 * sent + 1)).await.is_ok() {
            sent += 1;
        }
    });
    // Ended, and not before the socket was full of unread requests.
    assert!(ended.await.is_ok());
    assert!(sent < 5_000, "{sent} requests were read though no reply was");
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_more_than_its_share_of_all_calls_is_not_read() {
    let limits = Limits { admission: Admission::new(100), ..hasty() };
    let served = Served::with(limits.clone()).await;
    let other = served.client(Protocol::Grpc).await;
    let stream = TokioIo::new(UnixStream::connect(served.daemon.grpc()).await.unwrap());
    let http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = http.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        // Its message never comes.
        let body = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>>>());
        let request = http::Request::post(format!("http://localhost/{}/Get", support::IMAGES))
            .header("content-type", "application/grpc")
            .header("containerd-namespace", "n")
            .body(body.boxed_unsync())
            .unwrap();
        let mut sender = sender.clone();
        calls.spawn(async move { sender.send_request(request).await });
    }
    let mut most = 0;
    while let Some(answered) = calls.join_next().await {
        // Ended by the bound on its time, which lets the next be read.
        let status = answered.unwrap().unwrap().headers()["grpc-status"].clone();
        assert_eq!(status, (Code::DeadlineExceeded as i32).to_string());
        most = most.max(limits.admission.count());
        // The others still have their share.
        let everything = ListImagesRequest::new();
        other.call::<ListImagesResponse>("List", "n", &everything).await.unwrap();
    }
    // Beyond the bound come the heads that were read at once.
    assert!((100..200).contains(&most), "{most} calls at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_too_many_fields_is_told_so() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let filters = |count| [0x0a, 0].repeat(count);
        client.raw("List", Some("n"), filters(1000)).await.unwrap();
        let refused = client.raw("List", Some("n"), filters(1_000_000)).await.unwrap_err();
        assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_by_the_thousand_is_no_ttrpc_client() {
    let served = Served::start().await;
    let request = |entries| ttrpc::Request {
        metadata: vec![ttrpc::proto::KeyValue::default(); entries],
        ..Default::default()
    };
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    let asked = frame(1, &request(100).write_to_bytes().unwrap());
    stream.write_all(&asked).await.unwrap();
    let mut head = [0; 10];
    stream.read_exact(&mut head).await.unwrap();
    let asked = frame(3, &request(1000).write_to_bytes().unwrap());
    stream.write_all(&asked).await.unwrap();
    assert!(is_ended(&mut stream).await);
    is_served(&served).await;
}

/// A ttrpc frame with a List of `count` empty filters.
fn list_frame(stream: u32, filters: usize) -> Vec<u8> {
    let request = ttrpc::Request {
        service: support::IMAGES.into(),
        method: "List".into(),
        payload: [0x0a, 0].repeat(filters),
        ..Default::default()
    };
    frame(stream, &request.write_to_bytes().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttrpc_stream_has_one_call_at_a_time() {
    let limits = Limits::default();
    let served = Served::with(limits.clone()).await;
    // Every decoded message that needs a share of the budget waits.
    let all = limits.request_memory.reserve(usize::MAX).await;
    for other in [frame(1, b""), list_frame(1, 1), vec![0, 0, 0, 0, 0, 0, 0, 1, 9, 0]] {
        let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
        stream.write_all(&list_frame(1, 100)).await.unwrap();
        stream.write_all(&other).await.unwrap();
        assert!(is_ended(&mut stream).await, "{other:?}");
    }
    drop(all);
    is_served(&served).await;
}

/// A service with a fault in it.
#[derive(Clone)]
struct Faulty;

impl Router for Faulty {
    async fn route(
        &self,
        asked: IncomingCall,
        _: listener::Shutdown,
    ) -> Result<http::Response<Body>> {
        if asked.path().ends_with("List") {
            return asked.unary(async |_, _: ListImagesRequest| Ok(Reply::default())).await;
        }
        panic!("on purpose")
    }
}

#[async_trait]
impl Images for Faulty {
    async fn get(&self, _: &CallContext, _: GetImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn list(&self, _: &CallContext, _: ListImagesRequest) -> Result<Reply> {
        Ok(Reply::default())
    }
    async fn create(&self, _: &CallContext, _: CreateImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn update(&self, _: &CallContext, _: UpdateImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn delete(&self, _: &CallContext, _: DeleteImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_internal() {
    let dir = tempfile::tempdir().unwrap();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let open = |name: &str| {
        let access = Access { mode: 0o600, uid: None, gid: None };
        Socket::reserve(dir.path().join(name)).unwrap().open(access).unwrap().into_parts()
    };
    let limits = Limits::default();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let local = LocalImages::new(store, MemoryBudget::new(1 << 20));
    let catalog = Catalog::new(local.clone(), Arc::new(local));
    let (grpc, ttrpc) = (open("grpc"), open("ttrpc"));
    let threads = Arc::new(WorkerPool::start().unwrap());
    let servers = {
        let (shared, stop, lent) = (limits.clone(), stopping.clone(), Arc::clone(&threads));
        let grpc = tokio::spawn(async move {
            let limits = shared;
            let service = GrpcServer::new(Faulty, limits.clone());
            listener::run(&grpc.0, grpc.2, &limits, &lent, stop, move |s, stop| {
                service.clone().connection(s, stop)
            })
            .await;
        });
        let ttrpc = tokio::spawn(async move {
            let service = TtrpcServer::new(Arc::new(Faulty), catalog, None, limits.clone());
            listener::run(&ttrpc.0, ttrpc.2, &limits, &threads, stopping, move |s, stop| {
                service.clone().connection(s, stop)
            })
            .await;
        });
        [grpc, ttrpc]
    };
    for client in [
        Client::grpc(&dir.path().join("grpc")).await,
        Client::ttrpc(&dir.path().join("ttrpc")).await,
    ] {
        for method in ["Get", "Create", "Update", "Delete"] {
            let failed = client.raw(method, Some("n"), Vec::new()).await.unwrap_err();
            assert!(failed.is(Code::Internal), "{failed:?}");
        }
        client.raw("List", Some("n"), Vec::new()).await.unwrap();
    }
    stop.send(true).unwrap();
    for server in servers {
        tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
    }
}
