//! The start and the end of this daemon and of containerd.

use lmdb_images::api::health::HealthCheckRequest;
use protobuf::Message;

use super::*;
use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_stream_does_not_delay_the_shutdown() {
    let Chain { upstream, daemon, channel, dir: _dir } = Chain::start().await;
    let (_sender, mut replies) = open(&channel).await;
    let silent =
        tokio::spawn(
            async move { unary(&channel, "Hang", Request::new(vec![])).await.unwrap_err() },
        );
    // A call that its client has not sent by then would end there.
    upstream.until(|u| u.calls() == 2).await;
    let stopped = tokio::spawn(daemon.stop());
    for status in [soon(replies.message()).await.unwrap_err(), soon(silent).await.unwrap()] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(status.message(), "lmdb-images is shutting down");
    }
    soon(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_an_event_end_before_a_call_that_may_end() {
    const WAITING: [&str; 4] = [
        "/containerd.services.events.v1.Events/Subscribe",
        "/containerd.services.tasks.v1.Tasks/Wait",
        "/containerd.services.sandbox.v1.Controller/Wait",
        "/runtime.v1.RuntimeService/GetContainerEvents",
    ];
    let Chain { upstream, daemon, channel, dir: _dir } = Chain::start().await;
    for path in WAITING {
        upstream.script(path, Scripted::Stream);
    }
    let other = support::channel(daemon.containerd_socket().unwrap()).await.unwrap();
    let call = tokio::spawn(async move { unary(&other, "Hang", Request::new(vec![])).await });
    let mut waiting = Vec::new();
    for path in WAITING {
        let mut grpc = ready(&channel).await;
        let path = PathAndQuery::from_static(path);
        let replies = grpc.server_streaming(Request::new(vec![]), path, Raw);
        waiting.push(soon(replies).await.unwrap().into_inner());
    }
    upstream.until(|u| u.calls() == 1).await;
    let stopped = tokio::spawn(daemon.stop());
    for mut replies in waiting {
        let ended: Result<Option<Vec<u8>>, _> = soon(replies.message()).await;
        assert_eq!(ended.unwrap_err().message(), "lmdb-images is shutting down");
    }
    assert_eq!(upstream.calls(), 1, "the call was cut off with the others");
    soon(call).await.unwrap().unwrap_err();
    soon(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_again_after_upstream_came_back() {
    let mut chain = Chain::start().await;
    for _ in 0..20 {
        is_served(&chain.channel).await;
        let (_sender, mut replies) = open(&chain.channel).await;
        chain.upstream.kill().await;
        // As grpc-go says of a server that broke off, so that clients try again.
        let broken = soon(replies.message()).await.unwrap_err();
        assert_eq!(broken.code(), Code::Unavailable, "{broken:?}");
        let unreached = unary(&chain.channel, "Echo", Request::new(vec![])).await.unwrap_err();
        assert_eq!(unreached.code(), Code::Unavailable, "{unreached:?}");
        chain.upstream = FakeContainerd::start(&chain.dir.path().join("c.sock"));
        is_served(&chain.channel).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_to_containerd_is_open_before_the_first_call() {
    let chain = Chain::start().await;
    let before = chain.accepted().await;
    let _silent = channel(chain.socket()).await.unwrap();
    chain.upstream.until(|upstream| upstream.accepted() == before + 1).await;
    // This socket is used for image names, which need none.
    let _names = channel(chain.daemon.grpc()).await.unwrap();
    let other = channel(chain.socket()).await.unwrap();
    is_served(&other).await;
    assert_eq!((chain.upstream.accepted(), chain.upstream.lines()), (before + 2, 2));
}

/// A client that makes no call for containerd.
async fn silent_client(chain: &Chain) -> Channel {
    let channel = channel(chain.socket()).await.unwrap();
    let check = HealthCheckRequest::default().write_to_bytes().unwrap();
    // The daemon answers this itself. It has begun to serve the client by then.
    grpc(&channel, "grpc.health.v1.Health", "Check", None, check).await.unwrap();
    channel
}

/// A connection to containerd takes memory, also one for a client that never calls.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_containerd_are_opened_ahead_for_64_clients_at_a_time() {
    let chain = Chain::start().await;
    let before = chain.accepted().await;
    // One of the 64 is the client of the chain.
    let mut clients = Vec::new();
    for number in 1..64 {
        clients.push(silent_client(&chain).await);
        chain.upstream.until(|upstream| upstream.accepted() == before + number).await;
    }
    let mut more = Vec::new();
    for _ in 0..20 {
        more.push(silent_client(&chain).await);
    }
    assert_eq!(chain.upstream.accepted(), before + 63, "connections for more than 64 clients");
    // The first call of such a client opens one.
    is_served(&more[0]).await;
    assert_eq!(chain.upstream.accepted(), before + 64);
    // When clients go, others take their places.
    drop((clients, more));
    let again = async {
        while chain.upstream.accepted() == before + 64 {
            silent_client(&chain).await;
        }
    };
    soon(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_may_go_in_peace() {
    let chain = Chain::start().await;
    let (sender, mut replies) = open(&chain.channel).await;
    chain.upstream.say_goodbye();
    // Calls under way go on, new ones take another connection; one that crosses the goodbye may
    // be broken off.
    for number in 0..100u8 {
        let crossed = unary(&chain.channel, "Echo", Request::new(vec![])).await;
        assert!(number < 5 || crossed.is_ok(), "{crossed:?}");
        sender.send(vec![number]).unwrap();
        assert_eq!(soon(replies.message()).await.unwrap(), Some(vec![number]));
    }
    assert_eq!(chain.upstream.lines(), 2);
}
