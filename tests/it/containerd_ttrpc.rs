//! ttrpc connections pass through `containerd.sock.ttrpc` byte by byte, to the socket beside containerd's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lmdb_images::daemon::Daemon;
use lmdb_images::transport::Limits;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::support::config;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, what).await.expect("it hangs")
}

/// Where the containerd of that folder serves ttrpc.
fn ttrpc(dir: &Path) -> PathBuf {
    dir.join("c.sock.ttrpc")
}

async fn in_front(dir: &TempDir) -> Daemon {
    // A daemon that waits for its clients to go would wait longer than any test.
    let limits = Limits { drain_time: Duration::from_secs(3600), ..Limits::default() };
    let mut config = config(dir.path(), limits);
    config.containerd = Some(dir.path().join("c.sock"));
    Daemon::start(&config).await.unwrap()
}

async fn connect(daemon: &Daemon) -> UnixStream {
    UnixStream::connect(daemon.containerd_ttrpc().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_so_does_the_end_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let containerd = UnixListener::bind(ttrpc(dir.path())).unwrap();
    std::fs::set_permissions(ttrpc(dir.path()), std::fs::Permissions::from_mode(0o640)).unwrap();
    let daemon = in_front(&dir).await;
    let socket = daemon.containerd_ttrpc().unwrap();
    assert_eq!(socket.file_name().unwrap(), "containerd.sock.ttrpc");
    assert_eq!(std::fs::metadata(socket).unwrap().mode() & 0o777, 0o640, "as containerd's");

    let mut client = connect(&daemon).await;
    let (mut server, _) = soon(containerd.accept()).await.unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
    let there = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        back
    };
    let back = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        // The client has said its last word; the answer passes all the same.
        server.write_all(&got).await.unwrap();
        drop(server);
        got
    };
    let (answer, got) = soon(async { tokio::join!(there, back) }).await;
    assert!(got == sent && answer == sent, "{} and {} bytes", got.len(), answer.len());
    soon(daemon.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_does_not_read_stops_the_sender() {
    let dir = tempfile::tempdir().unwrap();
    let containerd = UnixListener::bind(ttrpc(dir.path())).unwrap();
    let daemon = in_front(&dir).await;
    let client = connect(&daemon).await;
    let (_server, _) = soon(containerd.accept()).await.unwrap();
    let mut sent = 0;
    // Until nothing more is taken for a while: the kernel's buffers are full, and ours.
    while let Ok(writable) =
        tokio::time::timeout(Duration::from_millis(300), client.writable()).await
    {
        writable.unwrap();
        sent += client.try_write(&[7; 64 << 10]).unwrap_or(0);
        assert!(sent < 8 << 20, "{sent} bytes lie unread somewhere");
    }
    soon(daemon.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_containerds_socket_a_client_is_disconnected_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = in_front(&dir).await;
    let socket = daemon.containerd_ttrpc().unwrap();
    assert_eq!(std::fs::metadata(socket).unwrap().mode() & 0o777, 0o600);
    for _ in 0..2 {
        let mut client = connect(&daemon).await;
        assert_eq!(soon(client.read(&mut [0; 1])).await.unwrap_or(0), 0);
    }
    let containerd = UnixListener::bind(ttrpc(dir.path())).unwrap();
    let mut client = connect(&daemon).await;
    let (mut server, _) = soon(containerd.accept()).await.unwrap();
    server.write_all(b"x").await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
    // A client that stays holds up no end of the daemon, and is disconnected.
    let stopped = tokio::time::timeout(TEST_TIMEOUT, daemon.stop()).await;
    assert!(stopped.is_ok(), "it waits for a client that stays");
    assert_eq!(soon(client.read(&mut [0; 1])).await.unwrap(), 0);
}

/// A frame of that type on stream 1, with an empty payload.
fn frame(kind: u8) -> [u8; 10] {
    [0, 0, 0, 0, 0, 0, 0, 1, kind, 0]
}

/// A daemon, a client of it, and containerd's end of the client's connection.
async fn connected(dir: &TempDir) -> (Daemon, UnixStream, UnixStream) {
    let containerd = UnixListener::bind(ttrpc(dir.path())).unwrap();
    let daemon = in_front(dir).await;
    let client = connect(&daemon).await;
    let (server, _) = soon(containerd.accept()).await.unwrap();
    (daemon, client, server)
}

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_client_that_stays_does_not_delay_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, mut client, mut server) = connected(&dir).await;
    let mut got = [0; 10];
    client.write_all(&frame(REQUEST)).await.unwrap();
    soon(server.read_exact(&mut got)).await.unwrap();
    server.write_all(&frame(RESPONSE)).await.unwrap();
    soon(client.read_exact(&mut got)).await.unwrap();
    let stopping = Instant::now();
    soon(daemon.stop()).await;
    let took = stopping.elapsed();
    // A shim stays connected for as long as its containers run. A call that is open may take two seconds.
    assert!(took < Duration::from_millis(1_500), "the end took {took:?}");
    assert_eq!(soon(client.read(&mut got)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_call_is_answered_after_the_end_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, mut client, mut server) = connected(&dir).await;
    let mut got = [0; 10];
    client.write_all(&frame(REQUEST)).await.unwrap();
    soon(server.read_exact(&mut got)).await.unwrap();
    let answer = async {
        // A containerd that takes longer than a connection without a call may stay.
        tokio::time::sleep(Duration::from_millis(600)).await;
        server.write_all(&frame(RESPONSE)).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        got
    };
    let (got, ()) = soon(async { tokio::join!(answer, daemon.stop()) }).await;
    assert_eq!(got, frame(RESPONSE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_head_has_arrived_in_part_is_an_open_call() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, mut client, mut server) = connected(&dir).await;
    let request = frame(REQUEST);
    let (begun, rest) = request.split_at(5);
    let mut got = [0; 10];
    client.write_all(begun).await.unwrap();
    soon(server.read_exact(&mut got[..5])).await.unwrap();
    let call = async {
        // A client that takes longer than a connection without a call may stay.
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.write_all(rest).await.unwrap();
        server.read_exact(&mut got[5..]).await.unwrap();
        assert_eq!(got, frame(REQUEST));
        server.write_all(&frame(RESPONSE)).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, frame(RESPONSE));
    };
    soon(async { tokio::join!(call, daemon.stop()) }).await;
}
