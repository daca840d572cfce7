//! How look-ups grow with the store: the same calls at 1,000, 10,000 … images.
//!
//! By the time that the largest store is filled the machine may be another than minutes before. So
//! both servers run a second time, with a store that stays as small as the first, and take turns
//! with those that grow: growth is how many times as long it takes as there, at the same time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::burst::{self, Target, Until, median};
use super::plot::{self, Curve};
use super::report::{Progress, Report, Unit, cell, markdown, thousands, times};
use super::server::Kind;
use super::targets::{Both, fill, prepare};
use super::{Arguments, Result, machine, store};

/// Sizes that are measured, as far as `--most` allows.
const SIZES: [u32; 7] = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000];

/// containerd is filled up to here, which takes minutes.
const THEIR_MOST: u32 = 100_000;

/// How long a burst lasts.
const BURST: Duration = Duration::from_millis(100);

/// A look-up should cost the same at each size, within this factor.
const SAME: f64 = 1.5;

const LOOKUPS: [&str; 3] = ["Get", "List `name==`", "List `target.digest==`"];
const SERVERS: [&str; 3] = ["containerd", "gRPC", "ttrpc"];

/// Median latencies by size; of one look-up at one server.
type Line = Vec<(u32, f64)>;

/// One look-up at one server.
#[derive(Default)]
struct Grown {
    line: Line,
    /// The time at the last size, divided by the time in the small store.
    times: f64,
}

/// Measures; gives back the goals that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let kind = Kind::containerd(&arguments.containerd)?;
    let version = kind.version()?;
    let dir = machine::folder()?;
    let both = Both::start(&kind, dir.path()).await?;
    let small = Both::start(&kind, &dir.path().join("small")).await?;
    let [first, ..] = SIZES;
    let [theirs, ours, _] = &small.targets;
    fill(theirs, 0, first, 10).await?;
    fill(ours, 0, first, 10).await?;
    let machine = machine::describe(dir.path());
    let sizes = || SIZES.into_iter().filter(|size| *size <= arguments.most);
    let progress = Progress::new(sizes().count() as u64)?;
    // lines[look-up][server]
    let mut lines: [[Grown; 3]; 3] = Default::default();
    let mut last = 0;
    for size in sizes() {
        progress.say(&format!("{size} images: filling"));
        let [theirs, ours, _] = &both.targets;
        if size <= THEIR_MOST {
            fill(theirs, last, size, 10).await?;
        }
        fill(ours, last, size, 10).await?;
        last = size;
        for (lookup, lines) in LOOKUPS.iter().zip(&mut lines) {
            progress.say(&format!("{size} images: {lookup}"));
            measure([&both, &small], lookup, [size, first], arguments.turns, lines).await?;
        }
        progress.step();
    }
    progress.done();

    let mut head = vec!["one client, median".to_owned()];
    head.extend(sizes().map(|size| thousands(f64::from(size))));
    head.push("largest ÷ smallest, in turn".into());
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    for (lookup, lines) in LOOKUPS.iter().zip(&lines) {
        for (server, line) in SERVERS.iter().zip(lines) {
            let server = if *server == "containerd" { &version } else { *server };
            let mut row = vec![format!("{lookup}, {server}")];
            row.extend(sizes().map(|size| {
                let found = line.line.iter().find(|(at, _)| *at == size).map(|(_, time)| *time);
                cell(found, |time| Unit::Time.show(time))
            }));
            row.push(times(line.times));
            rows.push(row);
            if server != version && line.times > SAME {
                missed.push(format!(
                    "{lookup} by {server} grows {} with the store, wanted {}",
                    times(line.times),
                    times(SAME)
                ));
            }
        }
    }
    let text = format!(
        "{version} up to {} images; {machine}; {}. Medians of {} turns.\n\n{}",
        thousands(f64::from(THEIR_MOST)),
        machine::today(),
        arguments.turns,
        markdown(&head, &rows)
    );
    let json = json!({
        "containerd": version, "machine": machine, "day": machine::today(), "turns": arguments.turns,
        "seconds": LOOKUPS.iter().zip(&lines).map(|(lookup, lines)| {
            let [theirs, grpc, ttrpc] = lines;
            json!({
                "operation": lookup, "containerd": theirs.line, "grpc": grpc.line, "ttrpc": ttrpc.line,
                "times": [theirs.times, grpc.times, ttrpc.times],
            })
        }).collect::<Vec<_>>(),
    });
    report.table("growth", &text, &json)?;
    let [_, by_name, _] = &lines;
    let [theirs, ours, _] = by_name;
    let curves = [
        Curve { name: &version, points: &theirs.line },
        Curve { name: "lmdb-images", points: &ours.line },
    ];
    report
        .drawing("growth", &plot::draw("List name==…, one client, gRPC: median time", &curves)?)?;
    Ok(missed)
}

/// Measures what grows and what does not, for each number of images in turn.
async fn measure(
    servers: [&Both; 2],
    lookup: &str,
    sizes: [u32; 2],
    turns: u32,
    lines: &mut [Grown; 3],
) -> Result<()> {
    let [grown, small] = servers;
    let mut found: [[Vec<f64>; 2]; 3] = Default::default();
    let mut ready = Vec::new();
    for target in &grown.targets {
        let mut of_both = Vec::new();
        for size in sizes {
            let numbers = || store::mixed(0, size).take(500);
            of_both.push(match lookup {
                "Get" => prepare(target.protocol, "Get", numbers().map(store::get))?,
                "List `name==`" => lists(target, numbers().map(store::by_name))?,
                _ => lists(target, numbers().map(store::by_digest))?,
            });
        }
        ready.push(of_both);
    }
    let [size, _] = sizes;
    for turn in 0..=turns {
        for ((column, target), (_, beside)) in grown.turn(turn).zip(small.turn(turn)) {
            if column == 0 && size > THEIR_MOST {
                continue;
            }
            let Some((requests, found)) = ready.get(column).zip(found.get_mut(column)) else {
                continue;
            };
            for ((target, requests), found) in [target, beside].into_iter().zip(requests).zip(found)
            {
                grown.settle().await?;
                small.settle().await?;
                let burst = burst::run(target, 1, requests, Until::Time(BURST)).await?;
                if turn > 0 {
                    found.push(burst.median());
                }
            }
        }
    }
    for (line, [grown, small]) in lines.iter_mut().zip(found) {
        if !grown.is_empty() {
            let times = grown.iter().zip(&small).map(|(grown, small)| grown / small);
            line.times = median(times.collect());
            line.line.push((size, median(grown)));
        }
    }
    Ok(())
}

fn lists(
    target: &Target,
    filters: impl Iterator<Item = String>,
) -> Result<Arc<[super::client::Prepared]>> {
    prepare(target.protocol, "List", filters.map(|filter| store::list(Some(filter))))
}
