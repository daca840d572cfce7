//! What is passed on to a containerd arrives there as it was sent, and so back: messages, metadata,
//! trailers, streams, deadlines, resets; and no client's stall is another's.

mod lifecycle;
mod load;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lmdb_images::daemon::Daemon;
use lmdb_images::transport::Limits;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::metadata::{KeyAndValueRef, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::fake_containerd::{FakeContainerd, Scripted, message};
use crate::support::{Raw, channel, config, grpc};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A daemon in front of an upstream, and a connection to it.
struct Chain {
    upstream: FakeContainerd,
    daemon: Daemon,
    channel: Channel,
    dir: TempDir,
}

impl Chain {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstream = FakeContainerd::start(&dir.path().join("c.sock"));
        let mut config = config(dir.path(), Limits::default());
        config.containerd = Some(upstream.socket().into());
        let daemon = Daemon::start(&config).await.unwrap();
        let channel = channel(daemon.containerd_socket().unwrap()).await.unwrap();
        Self { upstream, daemon, channel, dir }
    }

    fn socket(&self) -> &Path {
        self.daemon.containerd_socket().unwrap()
    }

    /// How many connections the upstream has accepted: those of the daemon's own calls, and that of the
    /// chain's client, are among them.
    async fn accepted(&self) -> usize {
        is_served(&self.channel).await;
        // The daemon connects for its own calls when it comes to that.
        self.upstream.until(|upstream| upstream.own_lines() == 1).await;
        self.upstream.accepted()
    }

    /// The next call whose end the upstream sees.
    async fn ended(&mut self) -> String {
        soon(self.upstream.ended.recv()).await.unwrap()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, what).await.expect("it hangs")
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/test.Upstream/{method}")).unwrap()
}

async fn ready(channel: &Channel) -> tonic::client::Grpc<Channel> {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    grpc
}

async fn unary(
    channel: &Channel,
    method: &str,
    request: Request<Vec<u8>>,
) -> Result<Response<Vec<u8>>, Status> {
    soon(ready(channel).await.unary(request, path(method), Raw)).await
}

async fn is_served(channel: &Channel) {
    let bytes = b"still here".to_vec();
    let reply = unary(channel, "Echo", Request::new(bytes.clone())).await.unwrap();
    assert_eq!(reply.into_inner(), bytes);
}

async fn stream(
    channel: &Channel,
    method: &str,
    messages: impl Stream<Item = Vec<u8>> + Send + 'static,
) -> Result<Streaming<Vec<u8>>, Status> {
    let mut grpc = ready(channel).await;
    soon(grpc.streaming(Request::new(messages), path(method), Raw)).await.map(Response::into_inner)
}

/// A stream both ways that is open until the sender is dropped.
async fn open(channel: &Channel) -> (mpsc::UnboundedSender<Vec<u8>>, Streaming<Vec<u8>>) {
    let (sender, mut messages) = mpsc::unbounded_channel();
    let messages = futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx));
    (sender, stream(channel, "Echo", messages).await.unwrap())
}

fn sorted(map: &MetadataMap) -> Vec<String> {
    let mut all: Vec<_> = map
        .iter()
        .map(|field| match field {
            KeyAndValueRef::Ascii(k, v) => format!("{k}: {}", v.to_str().unwrap()),
            KeyAndValueRef::Binary(k, v) => format!("{k}: {:?}", v.to_bytes().unwrap()),
        })
        .filter(|line| !line.starts_with("date: "))
        .collect();
    all.sort();
    all
}

/// What of a status can be seen.
fn seen(status: &Status) -> (Code, String, Vec<u8>, Vec<String>) {
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
        sorted(status.metadata()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_goes_both_ways_unchanged() {
    let chain = Chain::start().await;
    let request = || {
        let mut request = Request::new(b"hello".to_vec());
        let map = request.metadata_mut();
        map.insert("containerd-namespace", "a space".parse().unwrap());
        map.append("twice", "one".parse().unwrap());
        map.append("twice", "two, three".parse().unwrap());
        map.insert_bin("some-bin", MetadataValue::from_bytes(&[0, 1, 2, 255]));
        map.insert("grpc-timeout", "7S".parse().unwrap());
        map.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00".parse().unwrap());
        request
    };
    let direct = channel(chain.upstream.socket()).await.unwrap();
    let mut seen = Vec::new();
    for (channel, forwarded) in [(&direct, None), (&chain.channel, Some("1"))] {
        let reply = unary(channel, "Echo", request()).await.unwrap();
        assert_eq!(reply.get_ref(), b"hello");
        let mut arrived = chain.upstream.headers();
        assert_eq!(arrived.get_all("twice").iter().count(), 2);
        assert_eq!(arrived["grpc-timeout"], "7S");
        assert_eq!(arrived["te"], "trailers");
        arrived.remove("content-length");
        // A containerd with the plugin must answer what this daemon forwards.
        let direct = arrived.remove("lmdb-images-direct");
        assert_eq!(direct.as_ref().map(|value| value.to_str().unwrap()), forwarded);
        let mut stream =
            stream(channel, "Echo", futures_util::stream::iter([vec![1]])).await.unwrap();
        assert_eq!(soon(stream.message()).await.unwrap(), Some(vec![1]));
        let trailers = soon(stream.trailers()).await.unwrap().unwrap();
        assert_eq!(
            trailers.get_bin("trailing-bin").unwrap().to_bytes().unwrap()[..],
            [255, 254, 253]
        );
        seen.push((
            sorted(&MetadataMap::from_headers(arrived)),
            sorted(reply.metadata()),
            sorted(&trailers),
        ));
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].1.contains(&"leading: two".to_owned()), "{:?}", seen[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_with_its_details_and_metadata() {
    let chain = Chain::start().await;
    let direct = channel(chain.upstream.socket()).await.unwrap();
    // The client of a stream goes on sending: the answer comes before its end.
    for method in ["Refuse", "RefuseLate"] {
        let mut statuses = Vec::new();
        for channel in [&direct, &chain.channel] {
            let status = unary(channel, method, Request::new(vec![0; 100])).await.unwrap_err();
            let (sender, mut messages) = mpsc::unbounded_channel();
            let messages = futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx));
            sender.send(vec![0; 100_000]).unwrap();
            let streamed = match stream(channel, method, messages).await {
                Err(status) => status,
                Ok(mut replies) => {
                    assert_eq!(soon(replies.message()).await.unwrap(), Some(b"x".to_vec()));
                    soon(replies.message()).await.unwrap_err()
                }
            };
            statuses.push((seen(&status), seen(&streamed)));
        }
        assert_eq!(statuses[0], statuses[1], "{method}");
        let (code, message, details, _) = &statuses[0].0;
        assert_eq!((*code, message.as_str()), (Code::FailedPrecondition, "not now €"));
        assert_eq!(details[..], [1, 2, 255]);
    }
    is_served(&chain.channel).await;
    assert_eq!(chain.upstream.lines(), 2, "one direct, one for the daemon's client");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_pass_either_way_and_both_ways() {
    let mut chain = Chain::start().await;
    // To the server: a hundred messages of 100 kB.
    let pieces = futures_util::stream::iter((0..100).map(|_| vec![1; 100_000]));
    let mut counted = stream(&chain.channel, "Count", pieces).await.unwrap();
    let count = soon(counted.message()).await.unwrap().unwrap();
    assert_eq!(u64::from_be_bytes(count.try_into().unwrap()), 100 * 100_005);
    assert_eq!(chain.ended().await, "Count");
    // From the server: as many as one likes, and then no more.
    let mut flood =
        stream(&chain.channel, "Flood", futures_util::stream::iter([vec![]])).await.unwrap();
    for _ in 0..1_000 {
        assert_eq!(soon(flood.message()).await.unwrap().unwrap(), vec![7; 16 << 10]);
    }
    drop(flood);
    assert_eq!(chain.ended().await, "Flood");
    // Both ways: each is answered before the next is sent.
    let (sender, mut replies) = open(&chain.channel).await;
    for number in 0..100u8 {
        sender.send(vec![number; 10]).unwrap();
        assert_eq!(soon(replies.message()).await.unwrap(), Some(vec![number; 10]));
    }
    drop(sender);
    assert_eq!(soon(replies.message()).await.unwrap(), None);
    assert!(soon(replies.trailers()).await.unwrap().unwrap().contains_key("trailing"));
    assert_eq!(chain.ended().await, "Echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_16_mib_pass() {
    let chain = Chain::start().await;
    let large: Vec<u8> = (0..16 << 20).map(|i: u32| (i % 251) as u8).collect();
    let reply = unary(&chain.channel, "Echo", Request::new(large.clone())).await.unwrap();
    assert!(reply.into_inner() == large);
    let (sender, mut replies) = open(&chain.channel).await;
    for _ in 0..3 {
        sender.send(large.clone()).unwrap();
        assert!(soon(replies.message()).await.unwrap() == Some(large.clone()));
    }
}

type Resettable = StreamBody<BoxStream<'static, Result<Frame<Bytes>, h2::Error>>>;

/// A connection that is below tonic: it has no way to reset a request.
async fn handshake(
    socket: &Path,
) -> (http2::SendRequest<Resettable>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// A request that is open, after a message of 100 kB, until it is reset.
async fn uploading(
    sender: &mut http2::SendRequest<Resettable>,
    method: &str,
) -> (oneshot::Sender<h2::Reason>, http::Response<hyper::body::Incoming>) {
    let (reset, sending) = oneshot::channel();
    let first = Ok(Frame::data(Bytes::from(message(&[1; 100_000]))));
    let rest = async { Err(h2::Error::from(sending.await.unwrap())) };
    let body = futures_util::stream::iter([first]).chain(futures_util::stream::once(rest));
    let request = http::Request::post(format!("http://localhost/test.Upstream/{method}"))
        .header("content-type", "application/grpc")
        .body(StreamBody::new(body.boxed()))
        .unwrap();
    (reset, soon(sender.send_request(request)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_call_upstream() {
    let mut chain = Chain::start().await;
    // While it waits for an answer.
    let waits = tokio::spawn({
        let channel = chain.channel.clone();
        async move { unary(&channel, "Hang", Request::new(vec![])).await }
    });
    chain.upstream.until(|u| u.calls() == 1).await;
    waits.abort();
    assert_eq!(chain.ended().await, "Hang");
    // While it reads.
    let reads = stream(&chain.channel, "HangOpen", futures_util::stream::iter([vec![]])).await;
    drop(reads.unwrap());
    assert_eq!(chain.ended().await, "HangOpen");
    // While it sends, as far as it is read.
    let (mut sender, connection) = handshake(chain.socket()).await;
    let (reset, replies) = uploading(&mut sender, "Echo").await;
    reset.send(h2::Reason::CANCEL).unwrap();
    assert_eq!(chain.ended().await, "Echo");
    drop((replies, sender));
    soon(connection).await.unwrap().unwrap();
    // When its deadline passes: tonic gives up on its own. Where the machine is busy, that may be before the
    // call has arrived, and then there is no end of it to see.
    let mut deadline = Duration::from_millis(50);
    let status = loop {
        let mut request = Request::new(vec![]);
        request.set_timeout(deadline);
        let call = unary(&chain.channel, "Hang", request);
        tokio::pin!(call);
        tokio::select! {
            biased;
            () = chain.upstream.until(|u| u.calls() > 0) => break call.await.unwrap_err(),
            _ = &mut call => deadline *= 2,
        }
    };
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert_eq!(chain.ended().await, "Hang");
    // When the whole client goes.
    let other = channel(chain.socket()).await.unwrap();
    let opened = open(&other).await;
    drop((opened, other));
    // A call whose deadline passed on its way may have ended since.
    while chain.ended().await != "Echo" {}
    is_served(&chain.channel).await;
    assert_eq!(chain.upstream.lines(), 3, "one for each client connection");
}

/// The reason of the reset that a status was made of.
fn reset(status: &Status) -> Option<u32> {
    let mut error: &dyn std::error::Error = status;
    loop {
        error = error.source()?;
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().map(u32::from);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_upstream_reaches_the_client_unchanged() {
    let chain = Chain::start().await;
    let direct = channel(chain.upstream.socket()).await.unwrap();
    let codes = [
        (2, Code::Internal),
        (7, Code::Unavailable),
        (8, Code::Cancelled),
        (11, Code::ResourceExhausted),
    ];
    for (reason, code) in codes {
        // Instead of an answer: the code that grpc-go would make of the reset.
        let method = format!("Reset/{reason}");
        let status = unary(&direct, &method, Request::new(vec![])).await.unwrap_err();
        assert_eq!(reset(&status), Some(reason), "{status:?}");
        let status = unary(&chain.channel, &method, Request::new(vec![])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        // In the middle of an answer.
        for channel in [&direct, &chain.channel] {
            let pieces = futures_util::stream::iter([vec![]]);
            let status = match stream(channel, &format!("ResetLate/{reason}"), pieces).await {
                Err(status) => status,
                Ok(mut replies) => loop {
                    match soon(replies.message()).await {
                        Ok(Some(message)) => assert_eq!(message, b"x"),
                        Ok(None) => panic!("the stream ended well"),
                        Err(status) => break status,
                    }
                },
            };
            assert!(reset(&status) == Some(reason) || status.code() == code, "{status:?}");
        }
    }
    is_served(&chain.channel).await;
    assert_eq!(chain.upstream.lines(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_sock_asks_containerd_which_containers_there_are_and_nothing_else_of_them() {
    let chain = Chain::start().await;
    let channel = channel(chain.daemon.grpc()).await.unwrap();
    let containers = "containerd.services.containers.v1.Containers";
    let path = "/containerd.services.containers.v1.Containers/List";
    chain.upstream.script(path, Scripted::Message(b"used".to_vec()));
    let listed = grpc(&channel, containers, "List", Some("n"), Vec::new()).await;
    assert_eq!(listed, Ok(b"used".to_vec()));
    let deleted = grpc(&channel, containers, "Delete", Some("n"), Vec::new()).await.unwrap_err();
    assert!(deleted.is(Code::Unimplemented), "{deleted:?}");
    assert!(deleted.message.contains("image names only"), "{deleted:?}");
}
