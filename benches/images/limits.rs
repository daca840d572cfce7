//! How far from the limit: Create against bare syncs, Get against an empty call on the same stack,
//! a scan against reading memory.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lmdb_images::api::health::HealthCheckRequest;
use serde_json::json;

use super::burst::{self, Target, Until, median};
use super::client::{Prepared, Protocol};
use super::report::{Progress, Report, Unit, markdown};
use super::server::{Kind, Server};
use super::targets::{MANY, fill, prepare};
use super::{Arguments, Result, machine, store};

/// Images in the store.
const IMAGES: u32 = 100_000;

/// A page, as a database writes it.
const PAGE: usize = 4096;

/// More than any cache holds.
const MEMORY: usize = 512 << 20;

const BURST: Duration = Duration::from_millis(300);

/// Measures and tells.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<()> {
    let dir = machine::folder()?;
    let progress = Progress::new(u64::from(arguments.turns))?;
    progress.say(&format!("filling lmdb-images with {IMAGES} images"));
    let server = Arc::new(Server::start(&Kind::Ours, &dir.path().join("o")).await?.0);
    let target = Target { server, protocol: Protocol::Grpc };
    fill(&target, 0, IMAGES, 10).await?;
    let stored = stored()?;

    progress.say("limits");
    let empty: Arc<[Prepared]> = [Protocol::Grpc.prepare(
        "grpc.health.v1.Health",
        "Check",
        &HealthCheckRequest::default(),
    )?]
    .into();
    let gets = prepare(Protocol::Grpc, "Get", store::mixed(0, IMAGES).take(4096).map(store::get))?;
    let scan = prepare(Protocol::Grpc, "List", [store::list(Some(store::READS_ALL.into()))])?;
    let memory = vec![1u64; MEMORY / size_of::<u64>()];
    let file = File::options().create_new(true).write(true).open(dir.path().join("f"))?;

    let mut found: [Vec<f64>; 8] = Default::default();
    for turn in 0..arguments.turns {
        let creates =
            prepare(Protocol::Grpc, "Create", (0..500).map(|n| store::create_passing(turn, n)))?;
        let burst =
            async |clients, requests, until| burst::run(&target, clients, requests, until).await;
        let time = Until::Time(BURST);
        let values = [
            syncs(&file)?,
            burst(1, &creates, Until::Once).await?.rate(),
            burst(1, &empty, time).await?.median(),
            burst(1, &gets, time).await?.median(),
            burst(MANY, &empty, time).await?.rate(),
            burst(MANY, &gets, time).await?.rate(),
            bandwidth(&memory),
            stored as f64 / burst(1, &scan, time).await?.median(),
        ];
        for (found, value) in found.iter_mut().zip(values) {
            found.push(value);
        }
        progress.step();
    }
    progress.done();

    let [syncs, create, empty, get, empty_many, get_many, memory, scan] = found.map(median);
    let bandwidth = |value: f64| format!("{:.2} GB/s", value / 1e9);
    let show = |unit: Unit| move |value: f64| unit.show(value);
    let row = |limit: &str, limit_value: String, ours: &str, our_value: String, part: f64| {
        vec![ours.into(), our_value, limit.into(), limit_value, format!("{:.0} %", part * 100.0)]
    };
    let (rate, time) = (show(Unit::Rate), show(Unit::Time));
    let rows = [
        row(
            "two writes of 4 KiB, each with fdatasync, one after the other",
            rate(syncs),
            "Create, 1 client",
            rate(create),
            create / syncs,
        ),
        row(
            "health Check, 1 client, median",
            time(empty),
            "Get, 1 client, median",
            time(get),
            empty / get,
        ),
        row(
            "health Check, 32 clients",
            rate(empty_many),
            "Get, 32 clients",
            rate(get_many),
            get_many / empty_many,
        ),
        row(
            "reading memory, one thread",
            bandwidth(memory),
            "List `name~=x.*y`: encoded images over the whole call",
            bandwidth(scan),
            scan / memory,
        ),
    ];
    let head = ["operation", "reached", "limit", "possible", "part of it"].map(Into::into);
    let text = format!(
        "100,000 images, gRPC; {}; {}. Medians of {} turns.\n\n{}",
        machine::describe(dir.path()),
        machine::today(),
        arguments.turns,
        markdown(&head, &rows)
    );
    let json = json!({
        "machine": machine::describe(dir.path()), "sync_pairs": syncs, "create": create,
        "empty_median": empty, "get_median": get, "empty_rate": empty_many, "get_rate": get_many,
        "memory_bytes": memory, "scan_bytes": scan,
    });
    report.table("limits", &text, &json)
}

/// Bytes that the images have, encoded: what a scan cannot help looking at.
fn stored() -> Result<usize> {
    use protobuf::Message;
    // Two times, which the server adds, take 14 bytes each.
    let sizes = (0..IMAGES).map(|n| store::create(n, 10).compute_size() as usize + 28);
    Ok(sizes.sum())
}

/// Pairs a second: data and then what makes it valid are synced one after the other, as by any
/// database that writes no log.
fn syncs(file: &File) -> Result<f64> {
    let page = [7; PAGE];
    let start = Instant::now();
    let mut pairs = 0;
    while start.elapsed() < BURST {
        for place in [1 + pairs % 64, 0] {
            file.write_all_at(&page, place * PAGE as u64)?;
            file.sync_data()?;
        }
        pairs += 1;
    }
    Ok(pairs as f64 / start.elapsed().as_secs_f64())
}

/// Bytes a second that one thread reads.
fn bandwidth(memory: &[u64]) -> f64 {
    let start = Instant::now();
    black_box(memory.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}
