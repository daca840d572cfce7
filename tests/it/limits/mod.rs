//! Clients that misbehave: each is bounded, refused or disconnected, and the others are served.

mod crumbs;
mod memory;
mod panics;
mod ttrpc_connections;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use lmdb_images::daemon::sockets::{Access, Socket};
use lmdb_images::limits::client::Client as Sender;
use lmdb_images::limits::memory::{MemoryBudget, SMALL};
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
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support;
use crate::support::{BOTH, Client, Protocol, Served, create, image};

/// Long enough for a busy machine, short compared with TEST_TIMEOUT.
const SOON: Duration = Duration::from_millis(300);
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn hasty() -> Limits {
    Limits { message_time: SOON, unread_time: SOON, ..Limits::default() }
}

/// Whether the other side ends the connection.
async fn is_ended(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    // A reset is an end too.
    tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut rest)).await.is_ok()
}

async fn is_served(served: &Served) {
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let everything = ListImagesRequest::new();
        let listed = client.call::<ListImagesResponse>("List", "n", &everything);
        tokio::time::timeout(TEST_TIMEOUT, listed).await.unwrap().unwrap();
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
    tokio::time::timeout(TEST_TIMEOUT, async {
        while served.client(Protocol::Ttrpc).await.raw("List", Some("n"), Vec::new()).await.is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_or_does_not_speak_grpc_is_disconnected() {
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
    let response = tokio::time::timeout(TEST_TIMEOUT, sender.send_request(request)).await;
    (response.unwrap().unwrap(), connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_grpc_message_has_a_timeout() {
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
async fn the_deadline_of_the_client_ends_its_call() {
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
    assert!(tokio::time::timeout(TEST_TIMEOUT, connection).await.is_ok());
    drop(unread);
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_its_share_of_all_calls_is_not_read() {
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
async fn large_requests_of_one_connection_do_not_take_each_others_window() {
    let served = Served::start().await;
    let client = served.client(Protocol::Grpc).await;
    // Few of them have a share of the budget at a time. The bytes of the others that have arrived lie
    // unread meanwhile, and must leave room for the rest of those.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..100 {
        let client = client.clone();
        let mut large = image(&number.to_string());
        large.target.as_mut().unwrap().annotations.insert("filler".into(), "x".repeat(200_000));
        calls.spawn(async move {
            client.call::<CreateImageResponse>("Create", "n", &create(large)).await.unwrap();
        });
    }
    tokio::time::timeout(TEST_TIMEOUT, calls.join_all()).await.expect("they end");
}
