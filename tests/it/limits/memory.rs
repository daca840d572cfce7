//! Requests wait for memory, and a request that stops gives its memory back.

use super::*;

/// A daemon with one budget for one large request, and half a minute for a message.
async fn frugal() -> (Served, Limits) {
    let request_memory = MemoryBudget::new(16 << 20).with_contended_timeout(SOON);
    let limits = Limits { request_memory, ..Limits::default() };
    (Served::with(limits.clone()).await, limits)
}

/// Waits until a client has all memory, and then for the same memory as another client.
async fn memory_comes_back(limits: &Limits) {
    let part = (16 << 20) - SMALL;
    while limits.request_memory.reserve(Sender::Process(1), part).now_or_never().is_some() {
        tokio::task::yield_now().await;
    }
    let waiting = limits.request_memory.reserve(Sender::Process(1), part);
    tokio::time::timeout(TEST_TIMEOUT, waiting)
        .await
        .expect("it comes back before the message's time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_grpc_request_that_stops_gives_its_memory_to_those_that_wait() {
    let (served, limits) = frugal().await;
    let announced = vec![Bytes::from_static(&[0, 1, 0, 0, 0, 7, 7])];
    let call = hyper_call(served.daemon.grpc(), 65_535, announced, true, "60S");
    let ((answer, _), ()) = tokio::join!(call, memory_comes_back(&limits));
    assert_eq!(answer.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
    let why = answer.headers()["grpc-message"].to_str().unwrap().replace("%20", " ");
    assert!(why.contains("stopped on its way while others waited"), "{why}");
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_ttrpc_request_that_stops_gives_its_memory_to_those_that_wait() {
    let (served, limits) = frugal().await;
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    stream.write_all(&[0, 0x30, 0, 0, 0, 0, 0, 1, 1, 0, 7]).await.unwrap();
    memory_comes_back(&limits).await;
    assert!(is_ended(&mut stream).await);
    is_served(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_too_many_fields_gets_that_error() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let filters = |count| [0x0a, 0].repeat(count);
        client.raw("List", Some("n"), filters(1000)).await.unwrap();
        let refused = client.raw("List", Some("n"), filters(1_000_000)).await.unwrap_err();
        assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    }
}
