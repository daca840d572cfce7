//! gRPC clients that send their messages in frames of one byte.

use super::*;

/// What a client says first: the preface of HTTP/2, and empty SETTINGS.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const CALLS: u32 = 64;
const CRUMBS: usize = 2000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header in HPACK, not indexed and not compressed.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The bytes of calls that each announce a message of 15 MiB and send its beginning, and then `end`.
fn calls(path: &str, count: u32, end: fn(u32) -> Vec<u8>) -> Vec<u8> {
    let headers = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header("content-type", "application/grpc"),
    ];
    let call = |number: u32| {
        let stream = 2 * number + 1;
        let announced = [&[0][..], &(15u32 << 20).to_be_bytes()].concat();
        [
            frame(HEADERS, END_HEADERS, stream, &headers.concat()),
            frame(DATA, 0, stream, &announced),
            frame(DATA, 0, stream, &[0]).repeat(CRUMBS),
            end(stream),
        ]
        .concat()
    };
    [OPENING.to_vec(), (0..count).flat_map(call).collect()].concat()
}

/// Sends until the server does not read on. Returns the number of bytes that were sent.
async fn send(client: &mut UnixStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len()
        && let Ok(written) = tokio::time::timeout(SOON, client.write(&bytes[sent..])).await
    {
        sent += written.expect("the server leaves the connection open");
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_that_send_crumbs_are_not_read_and_others_are() {
    let served = Served::start().await;
    // Few of these calls have a share of the memory at a time.
    let bytes = calls(&format!("/{}/Create", support::IMAGES), CALLS, |_| Vec::new());
    let (mut sent, mut clients) = (0, Vec::new());
    for _ in 0..8 {
        let mut client = UnixStream::connect(served.daemon.grpc()).await.unwrap();
        sent += send(&mut client, &bytes).await;
        clients.push(client);
    }
    // Unread frames are fifty times as large in memory.
    assert!(sent < clients.len() * bytes.len() / 2, "the server has read {sent} bytes");
    is_served(&served).await;
    drop(clients);
    let client = served.client(Protocol::Grpc).await;
    let large = create(image(&"x".repeat(1 << 20)));
    let created = client.call::<CreateImageResponse>("Create", "n", &large);
    tokio::time::timeout(TEST_TIMEOUT, created).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_for_a_call_that_has_ended_does_not_count_as_unread() {
    let served = Served::start().await;
    let mut client = UnixStream::connect(served.daemon.grpc()).await.unwrap();
    // The server refuses each call before it reads the message.
    let bytes = calls("/none/None", 2 * CALLS, |stream| frame(DATA, END_STREAM, stream, &[0]));
    let sent = client.write_all(&bytes);
    tokio::time::timeout(TEST_TIMEOUT, sent).await.expect("the server reads on").unwrap();
}
