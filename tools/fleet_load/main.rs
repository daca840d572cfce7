//! Loads a PostgreSQL of the fleet with simulated nodes, through the function that real ones call, and measures:
//!
//! ```text
//! fleet_load URL NODES IMAGES CHANGES [BATCH...]
//!                                         URL is of a role that is fleet_collector, as libpq writes it;
//!                                         every node has IMAGES images; then CHANGES changes come at each of the
//!                                         sizes of a batch, 1, 10, 100 and 500 without them
//! fleet_load wire URL [TLS_URL CA CERT KEY]
//!                                         bytes of a connection and of reports, without TLS and with it
//! ```
//!
//! `scripts/bench fleet` starts the PostgreSQL, and asks it for its sizes and the questions.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use crate::nodes::{Fleet, Node};
use crate::wire::{Connection, Wire};

mod nodes;
mod wire;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The sizes of a batch: a node that is idle, one that is busy, one that catches up.
const BATCHES: [usize; 4] = [1, 10, 100, 500];

/// How many connections bring the snapshots.
const CONNECTIONS: usize = 2;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (url, [nodes, images, changes], batches) = match words.as_slice() {
        ["wire", url] => return bytes("without TLS", Connection::open(url).await?, 0).await,
        ["wire", url, files @ ..] if files.len() == 4 => {
            bytes("without TLS", Connection::open(url).await?, 0).await?;
            let [tls_url, ca, cert, key] = [files[0], files[1], files[2], files[3]];
            let connection = Connection::open_tls(tls_url, [ca, cert, key]).await?;
            return bytes("with TLS", connection, 1).await;
        }
        [url, nodes, images, changes, batches @ ..] => (*url, [*nodes, images, changes], batches),
        _ => return Err("usage: fleet_load URL NODES IMAGES CHANGES [BATCH...], or fleet_load wire URL [TLS_URL CA CERT KEY]".into()),
    };
    let (nodes, images, changes) = (nodes.parse()?, images.parse()?, changes.parse()?);
    let fleet = Arc::new(Fleet::new(images));
    let mut all = snapshots(url, &fleet, nodes).await?;
    let mut batches =
        batches.iter().map(|b| b.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
    if batches.is_empty() {
        batches.extend(BATCHES);
    }
    for batch in batches {
        ingest(url, &fleet, &mut all, changes, batch).await?;
    }
    heartbeats(url, &mut all).await
}

/// The first report of every node.
async fn snapshots(url: &str, fleet: &Arc<Fleet>, count: usize) -> Result<Vec<Node>> {
    let started = Instant::now();
    let mut loads = Vec::new();
    for part in 0..CONNECTIONS {
        let (url, fleet) = (url.to_owned(), Arc::clone(fleet));
        loads.push(tokio::spawn(async move {
            let connection = Connection::open(&url).await?;
            let mut nodes = Vec::new();
            for number in (part..count).step_by(CONNECTIONS) {
                let mut node = Node::new(number, &fleet);
                for report in node.snapshot(&fleet) {
                    connection.report(&node.name, &report).await?;
                }
                nodes.push(node);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>((nodes, connection.wire()))
        }));
    }
    let (mut nodes, mut wire) = (Vec::new(), Wire::default());
    for load in loads {
        let (some, bytes) = load.await??;
        nodes.extend(some);
        wire = wire + bytes;
    }
    let (seconds, images) = (started.elapsed().as_secs_f64(), count * fleet.images);
    println!(
        "snapshots: {count} nodes, {images} images in {seconds:.1} s: {:.0} images/s, {:.0} bytes an image on the wire",
        images as f64 / seconds,
        wire.sent as f64 / images as f64
    );
    Ok(nodes)
}

/// Changes of random nodes, one batch after the other on one connection.
async fn ingest(
    url: &str,
    fleet: &Fleet,
    nodes: &mut [Node],
    changes: usize,
    batch: usize,
) -> Result<()> {
    let connection = Connection::open(url).await?;
    let mut random = fastrand::Rng::with_seed(batch as u64);
    let reports = (changes / batch).clamp(1, 5000);
    // The first call compiles the function.
    let count = nodes.len();
    let pick = |random: &mut fastrand::Rng| random.usize(..count);
    let warm = pick(&mut random);
    let report = nodes[warm].changes(fleet, batch, &mut random);
    let first = connection.processor_ms()?;
    connection.report(&nodes[warm].name, &report).await?;
    let before = connection.wire();
    let (first, busy) = (connection.processor_ms()? - first, connection.processor_ms()?);
    let (mut taken, mut slowest) = (Vec::with_capacity(reports), 0.0_f64);
    let started = Instant::now();
    for _ in 0..reports {
        let node = &mut nodes[pick(&mut random)];
        let report = node.changes(fleet, batch, &mut random);
        let asked = Instant::now();
        connection.report(&node.name, &report).await?;
        let seconds = asked.elapsed().as_secs_f64();
        slowest = slowest.max(seconds);
        taken.push(seconds);
    }
    let seconds = started.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    let wire = connection.wire() - before;
    let busy = connection.processor_ms()? - busy;
    let count = reports * batch;
    println!(
        "ingest: {count} changes, {batch} a batch: {:.0} changes/s, p50 {:.2} ms a batch, longest {:.1} ms; processor {:.2} ms a \
         batch ({:.0} changes a second of it), the first batch of a connection {first:.1} ms; {:.0} bytes sent and {:.0} \
         received a batch",
        count as f64 / seconds,
        taken[taken.len() / 2] * 1e3,
        slowest * 1e3,
        busy / reports as f64,
        count as f64 / busy * 1e3,
        wire.sent as f64 / reports as f64,
        wire.received as f64 / reports as f64
    );
    Ok(())
}

/// The bytes of a connection, a heartbeat, and a report of each size. `number` is the node's.
async fn bytes(what: &str, connection: Connection, number: usize) -> Result<()> {
    let fleet = Fleet::new(1000);
    let mut node = Node::new(900_000 + number, &fleet);
    let mut random = fastrand::Rng::with_seed(1);
    println!("wire: {what}: a connection: {}", connection.connect);
    let snapshot = node.snapshot(&fleet);
    let before = connection.wire();
    for report in &snapshot {
        connection.report(&node.name, report).await?;
    }
    println!("wire: {what}: a snapshot of {} images: {}", fleet.images, connection.wire() - before);
    let before = connection.wire();
    connection.report(&node.name, &node.hello()).await?;
    println!("wire: {what}: a heartbeat: {}", connection.wire() - before);
    for batch in BATCHES {
        let report = node.changes(&fleet, batch, &mut random);
        let before = connection.wire();
        connection.report(&node.name, &report).await?;
        println!("wire: {what}: a report of {batch} changes: {}", connection.wire() - before);
    }
    Ok(())
}

/// A node that has nothing new.
async fn heartbeats(url: &str, nodes: &mut [Node]) -> Result<()> {
    let connection = Connection::open(url).await?;
    let count = nodes.len().min(2000);
    let (before, started, busy) = (connection.wire(), Instant::now(), connection.processor_ms()?);
    for node in nodes.iter().take(count) {
        connection.report(&node.name, &node.hello()).await?;
    }
    let wire = connection.wire() - before;
    println!(
        "heartbeats: {:.0}/s, processor {:.2} ms each; {:.0} bytes sent and {:.0} received each, without the connection: {}",
        count as f64 / started.elapsed().as_secs_f64(),
        (connection.processor_ms()? - busy) / count as f64,
        wire.sent as f64 / count as f64,
        wire.received as f64 / count as f64,
        connection.connect
    );
    Ok(())
}
