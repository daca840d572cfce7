//! Limits of ttrpc connections.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_speak_ttrpc_is_disconnected() {
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
async fn a_half_sent_frame_has_a_timeout() {
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
async fn a_ttrpc_client_that_does_not_read_is_not_read_and_then_disconnected() {
    let patient = Duration::from_secs(3);
    let served = Served::with(Limits { calls: 8, unread_time: patient, ..Limits::default() }).await;
    let client = served.client(Protocol::Ttrpc).await;
    let mut big = image("i");
    big.target.as_mut().unwrap().annotations.insert("filler".into(), "x".repeat(10_000));
    client.call::<CreateImageResponse>("Create", "n", &create(big)).await.unwrap();
    let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
    let mut sent = 0;
    let ended = tokio::time::timeout(TEST_TIMEOUT, async {
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
async fn a_frame_with_a_thousand_metadata_entries_ends_the_connection() {
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
    let all = limits.request_memory.reserve(Sender::Process(1), usize::MAX).await;
    for other in [frame(1, b""), list_frame(1, 1), vec![0, 0, 0, 0, 0, 0, 0, 1, 9, 0]] {
        let mut stream = UnixStream::connect(served.daemon.ttrpc()).await.unwrap();
        stream.write_all(&list_frame(1, 100)).await.unwrap();
        stream.write_all(&other).await.unwrap();
        assert!(is_ended(&mut stream).await, "{other:?}");
    }
    drop(all);
    is_served(&served).await;
}
