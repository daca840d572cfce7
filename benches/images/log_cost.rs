//! What the log of changes costs: the same writes with the log and without it, in turn, and the bytes of
//! its entries.

use std::path::Path;
use std::sync::Arc;

use lmdb_images::api::catalog::{ChangesRequest, ChangesResponse, HeadRequest, HeadResponse};
use protobuf::Message;

use super::Result;
use super::burst::{self, Target, Until, median};
use super::catalogue::{Figure, call};
use super::client::Protocol;
use super::server::{Kind, Server};
use super::store;
use super::targets::prepare;

/// Calls of one operation in one turn.
const CALLS: u32 = 300;

/// An operation, and what the log may cost it.
struct Operation {
    method: &'static str,
    /// By how many parts of a hundred the log may slow it.
    slower: f64,
    /// The bytes that its entry may have.
    most: usize,
    /// The medians of the turns, with the log.
    with: Vec<f64>,
    /// The same without it.
    without: Vec<f64>,
    /// The bytes of an entry.
    bytes: usize,
}

impl Operation {
    fn new(method: &'static str, slower: f64, most: usize) -> Self {
        Self { method, slower, most, with: Vec::new(), without: Vec::new(), bytes: 0 }
    }

    fn figures(&self) -> [Figure; 2] {
        let reached = (median(self.with.clone()) / median(self.without.clone()) - 1.0) * 100.0;
        [
            Figure {
                what: format!("{} with the log, slower than without", self.method),
                asked: format!("≤ {} %", self.slower),
                reached: format!("{reached:.1} %"),
                is_reached: reached <= self.slower,
            },
            Figure {
                what: format!("bytes of the entry of {}", self.method),
                asked: format!("≤ {}", self.most),
                reached: self.bytes.to_string(),
                is_reached: self.bytes <= self.most,
            },
        ]
    }
}

/// Measures writes of one client by gRPC.
pub async fn run(dir: &Path, turns: u32) -> Result<Vec<Figure>> {
    let start = async |kind, folder| -> Result<Target> {
        let server = Arc::new(Server::start(&kind, &dir.join(folder)).await?.0);
        Ok(Target { server, protocol: Protocol::Grpc })
    };
    let with = start(Kind::Ours, "with-log").await?;
    let without = start(Kind::OursWithoutLog, "without-log").await?;
    let mut operations = [
        Operation::new("Create", 5.0, 350),
        Operation::new("Update", 15.0, 600),
        Operation::new("Delete", 15.0, 350),
    ];
    for turn in 0..turns {
        // Another goes first each turn.
        let order = if turn % 2 == 0 { [true, false] } else { [false, true] };
        for has_log in order {
            let target = if has_log { &with } else { &without };
            for operation in &mut operations {
                let requests = requests(operation.method, turn)?;
                let found = burst::run(target, 1, &requests, Until::Once).await?.median();
                if has_log {
                    operation.with.push(found);
                    operation.bytes = newest_entry(target).await?;
                } else {
                    operation.without.push(found);
                }
            }
            burst::settle(&[Arc::clone(&target.server)]).await?;
        }
    }
    Ok(operations.iter().flat_map(Operation::figures).collect())
}

fn requests(method: &str, turn: u32) -> Result<Arc<[super::client::Prepared]>> {
    let grpc = Protocol::Grpc;
    match method {
        "Create" => prepare(grpc, method, (0..CALLS).map(|n| store::create_passing(turn, n))),
        "Update" => prepare(grpc, method, (0..CALLS).map(|n| store::label_passing(turn, n))),
        _ => prepare(grpc, method, (0..CALLS).map(|n| store::delete_passing(turn, n))),
    }
}

/// The bytes of the newest change.
async fn newest_entry(target: &Target) -> Result<usize> {
    let mut client = target.connect().await?;
    let head: HeadResponse = client.ask(&call("Head", &HeadRequest::new())?).await?;
    let newest = ChangesRequest { epoch: head.epoch, from: head.last, ..Default::default() };
    let changes: ChangesResponse = client.ask(&call("Changes", &newest)?).await?;
    let change = changes.changes.first().ok_or("no change")?;
    Ok(usize::try_from(change.compute_size())?)
}
