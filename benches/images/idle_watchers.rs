//! What watchers that never read cost a writer.

use lmdb_images::api::catalog::{HeadRequest, HeadResponse, WatchRequest, WatchResponse};
use lmdb_images::containerd::client::GrpcClient;

use super::Result;
use super::burst::{self, Target, Until, median};
use super::catalogue::{Figure, STREAMS, WATCH, call};
use super::client::Protocol;
use super::store;
use super::targets::prepare;

const WATCHERS: usize = 1000;

/// Calls in one turn.
const CALLS: u32 = 300;

/// Turns that no other measurement has: a name is created once.
const FIRST_TURN: u32 = 1000;

/// Creates images beside no watchers and beside watchers that never read, in turn.
pub async fn run(target: &Target, turns: u32) -> Result<Figure> {
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        // Another goes first each turn.
        let order = if turn % 2 == 0 { [true, false] } else { [false, true] };
        for has_watchers in order {
            let watching = if has_watchers { watch(target).await? } else { Vec::new() };
            let number = FIRST_TURN + turn * 2 + u32::from(has_watchers);
            let create = prepare(
                Protocol::Grpc,
                "Create",
                (0..CALLS).map(|n| store::create_passing(number, n)),
            )?;
            let found = burst::run(target, 1, &create, Until::Once).await?.median();
            if has_watchers { &mut beside } else { &mut alone }.push(found);
            drop(watching);
            burst::settle(std::slice::from_ref(&target.server)).await?;
        }
    }
    let slower = (median(beside) / median(alone) - 1.0) * 100.0;
    Ok(Figure {
        what: "Create beside 1,000 watchers that never read, slower than without".into(),
        asked: "≤ 10 %".into(),
        reached: format!("{slower:.1} %"),
        is_reached: slower <= 10.0,
    })
}

/// Watches every change, by streams from which nothing is read. Waits until their windows are full: before that the
/// time of this process, which receives the messages, would be measured.
async fn watch(target: &Target) -> Result<Vec<Box<dyn Send>>> {
    let mut client = target.connect().await?;
    let head: HeadResponse = client.ask(&call("Head", &HeadRequest::new())?).await?;
    let mut streams: Vec<Box<dyn Send>> = Vec::new();
    let mut grpc = GrpcClient::lazy(target.server.socket(Protocol::Grpc));
    for number in 0..WATCHERS {
        if number % STREAMS == 0 {
            grpc = GrpcClient::lazy(target.server.socket(Protocol::Grpc));
        }
        let epoch = head.epoch.clone();
        let watch = WatchRequest { epoch, from: head.first, ..WatchRequest::default() };
        streams.push(Box::new(grpc.stream::<_, WatchResponse>(WATCH, watch).await?));
    }
    burst::settle(std::slice::from_ref(&target.server)).await?;
    Ok(streams)
}
