//! The bytes of a ttrpc connection, on a real socket, to the service. However they are cut and
//! whatever they say, the connection ends when its client has no more to say, and what comes back
//! are whole frames, of responses to streams that were opened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lmdb_images::service::catalog::Catalog;
use lmdb_images::transport::Limits;
use lmdb_images::transport::ttrpc::server::TtrpcServer;
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::service::Service;

const HEAD: usize = 10;
const RESPONSE: u8 = 2;

/// Much longer than a reply takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
pub fn run(data: &[u8]) {
    let service = Service::get();
    let replies = service.run(async {
        let (client, server) = UnixStream::pair().expect("a pair of sockets");
        let stopping = CancellationToken::new();
        let events = Some(service.local.events().clone());
        let images = Arc::new(service.local.clone());
        let catalog = Catalog::new(service.local.clone(), images.clone());
        let ttrpc = TtrpcServer::new(images, catalog, events, Limits::default());
        let served = tokio::spawn(ttrpc.connection(server, stopping));
        let (mut read, mut write) = client.into_split();
        let said = data.to_vec();
        let saying = tokio::spawn(async move {
            // It may end the connection before all is said.
            let _ = write.write_all(&said).await;
            let _ = write.shutdown().await;
        });
        let mut replies = Vec::new();
        let read = tokio::time::timeout(TEST_TIMEOUT, read.read_to_end(&mut replies)).await;
        // A reset is an end too.
        let _ = read.expect("the connection ends");
        let _ = saying.await;
        tokio::time::timeout(TEST_TIMEOUT, served)
            .await
            .expect("serving it ends")
            .expect("no panic");
        replies
    });
    let streams: BTreeSet<u32> = frames(data).map(|frame| frame.stream).collect();
    let mut length = 0;
    for frame in frames(&replies) {
        length += HEAD + frame.payload.len();
        assert_eq!(frame.kind, RESPONSE);
        assert!(streams.contains(&frame.stream), "stream {}", frame.stream);
        ttrpc::Response::parse_from_bytes(frame.payload).expect("a response");
    }
    assert_eq!(length, replies.len(), "the replies end within one");
    service.clear();
}

struct Frame<'d> {
    stream: u32,
    kind: u8,
    /// As far as it is there.
    payload: &'d [u8],
}

fn frames(mut data: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = data.split_at_checked(HEAD)?;
        let number =
            |at: usize| head[at..at + 4].iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        let (payload, rest) = rest.split_at((number(0) as usize).min(rest.len()));
        data = rest;
        Some(Frame { stream: number(4), kind: head[8], payload })
    })
}
