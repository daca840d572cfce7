//! Many calls, and clients or servers that do not read.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_beside_a_thousand_open_streams() {
    let chain = Chain::start().await;
    let mut opening = JoinSet::new();
    for _ in 0..1_000 {
        let channel = chain.channel.clone();
        opening.spawn(async move { open(&channel).await });
    }
    let mut streams = soon(opening.join_all()).await;
    assert_eq!(chain.upstream.calls(), 1_000);
    is_served(&chain.channel).await;
    for (sender, replies) in &mut streams {
        sender.send(b"ping".to_vec()).unwrap();
        assert_eq!(soon(replies.message()).await.unwrap().unwrap(), b"ping");
    }
    drop(streams);
    chain.upstream.until(|u| u.calls() == 0).await;
    is_served(&chain.channel).await;
    assert_eq!(chain.upstream.lines(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancelled_calls_leaves_the_connection_usable() {
    let chain = Chain::start().await;
    let (sender, mut replies) = open(&chain.channel).await;
    for wave in 0..10u64 {
        let mut calls = JoinSet::new();
        for number in 0..500 {
            let channel = chain.channel.clone();
            calls.spawn(async move {
                let call = unary(&channel, "Hang", Request::new(vec![0; 100]));
                // Some before they are sent, some on the way, some when they have arrived.
                let _ = tokio::time::timeout(Duration::from_micros(wave * number * 10), call).await;
            });
        }
        soon(calls.join_all()).await;
    }
    chain.upstream.until(|u| u.calls() == 1).await;
    is_served(&chain.channel).await;
    sender.send(b"ping".to_vec()).unwrap();
    assert_eq!(soon(replies.message()).await.unwrap().unwrap(), b"ping");
    assert_eq!(chain.upstream.lines(), 1, "the connection did not break");
}

/// A client as containerd's Go client is: each stream has 64 KiB, the connection as much as comes.
async fn go_client(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1 << 30)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stalls_no_other() {
    let chain = Chain::start().await;
    let calls = async || {
        let since = std::time::Instant::now();
        for _ in 0..200 {
            is_served(&chain.channel).await;
        }
        since.elapsed()
    };
    let alone = calls().await;
    let stalled = go_client(chain.socket()).await;
    let mut unread = Vec::new();
    for _ in 0..64 {
        let one = futures_util::stream::iter([vec![]]);
        unread.push(stream(&stalled, "Flood", one).await.unwrap());
    }
    // Other connections are as fast as ever, as far as a busy machine shows it.
    let beside = calls().await;
    assert!(beside < 20 * alone.max(Duration::from_millis(250)), "{beside:?}, alone {alone:?}");
    // And calls on the same connection pass, as they do to grpc-go without us between.
    for _ in 0..200 {
        is_served(&stalled).await;
    }
    for stream in &mut unread {
        for _ in 0..100 {
            assert_eq!(soon(stream.message()).await.unwrap().unwrap().len(), 16 << 10);
        }
    }
    drop(unread);
    chain.upstream.until(|u| u.calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_calls_without_end() {
    let chain = Chain::start().await;
    for _ in 0..2_000 {
        is_served(&chain.channel).await;
    }
    assert_eq!(chain.upstream.lines(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_beside_uploads_that_upstream_does_not_read() {
    let chain = Chain::start().await;
    let mut unread = Vec::new();
    for _ in 0..24 {
        let pieces = futures_util::stream::repeat_with(|| vec![1; 100_000]);
        unread.push(stream(&chain.channel, "HangOpen", pieces).await.unwrap());
    }
    for _ in 0..200 {
        is_served(&chain.channel).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_upstream_does_not_read_ends_with_its_client() {
    let mut chain = Chain::start().await;
    // One goes on, so that the connection does not end with the others.
    let (mut sender, _connection) = handshake(chain.socket()).await;
    let (_kept, _replies) = uploading(&mut sender, "HangOpen/kept").await;
    let (reset, _replies) = uploading(&mut sender, "HangOpen/open").await;
    reset.send(h2::Reason::CANCEL).unwrap();
    assert_eq!(chain.ended().await, "HangOpen/open");
    // And after everything was sent.
    let (other, mut replies) = open(&chain.channel).await;
    let all = futures_util::stream::iter([vec![1; 100_000]]);
    drop(stream(&chain.channel, "HangOpen/whole", all).await.unwrap());
    assert_eq!(chain.ended().await, "HangOpen/whole");
    other.send(b"ping".to_vec()).unwrap();
    assert_eq!(soon(replies.message()).await.unwrap().unwrap(), b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_answered_before_its_client_has_ended_the_request() {
    let chain = Chain::start().await;
    let digest = b"\x0a\x04none".to_vec();
    let messages = futures_util::stream::iter([digest]).chain(futures_util::stream::pending());
    let info = PathAndQuery::from_static("/containerd.services.content.v1.Content/Info");
    let mut grpc = ready(&chain.channel).await;
    // The upstream does not have the service; what matters is that it was asked.
    let answer = soon(grpc.streaming(Request::new(messages), info, Raw)).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}
