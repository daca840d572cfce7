//! How look-ups grow with the store: the same calls at 1,000, 10,000 … images.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::burst::{self, Target, Until, median};
use super::compare::{Both, fill, prepare};
use super::plot::{self, Curve};
use super::report::{Progress, Report, Unit, cell, markdown, thousands, times};
use super::server::Kind;
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

/// Measures; gives back the goals that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let kind = Kind::containerd(&arguments.containerd)?;
    let version = kind.version()?;
    let dir = machine::folder()?;
    let both = Both::start(&kind, dir.path()).await?;
    let machine = machine::describe(dir.path());
    let sizes = || SIZES.into_iter().filter(|size| *size <= arguments.most);
    let progress = Progress::new(sizes().count() as u64)?;
    // lines[look-up][server]
    let mut lines: [[Line; 3]; 3] = Default::default();
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
            measure(&both, lookup, size, arguments.turns, lines).await?;
        }
        progress.step();
    }
    progress.done();

    let mut head = vec!["one client, median".to_owned()];
    head.extend(sizes().map(|size| thousands(f64::from(size))));
    head.push("last ÷ first".into());
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    for (lookup, lines) in LOOKUPS.iter().zip(&lines) {
        for (server, line) in SERVERS.iter().zip(lines) {
            let server = if *server == "containerd" { &version } else { *server };
            let mut row = vec![format!("{lookup}, {server}")];
            row.extend(sizes().map(|size| {
                let found = line.iter().find(|(at, _)| *at == size).map(|(_, time)| *time);
                cell(found, |time| Unit::Time.show(time))
            }));
            let growth = growth(line);
            row.push(cell(growth, times));
            rows.push(row);
            if let Some(growth) = growth.filter(|g| server == "gRPC" && *g > SAME) {
                missed.push(format!(
                    "{lookup} grows {} with the store, wanted {}",
                    times(growth),
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
            json!({ "operation": lookup, "containerd": lines.first(), "grpc": lines.get(1), "ttrpc": lines.get(2) })
        }).collect::<Vec<_>>(),
    });
    report.table("growth", &text, &json)?;
    let [_, by_name, _] = &lines;
    let [theirs, ours, _] = by_name;
    let curves =
        [Curve { name: &version, points: theirs }, Curve { name: "lmdb-images", points: ours }];
    report
        .drawing("growth", &plot::draw("List name==…, one client, gRPC: median time", &curves)?)?;
    Ok(missed)
}

/// The time at the largest store, in times at the smallest.
fn growth(line: &Line) -> Option<f64> {
    Some(line.last()?.1 / line.first()?.1)
}

async fn measure(
    both: &Both,
    lookup: &str,
    size: u32,
    turns: u32,
    lines: &mut [Line; 3],
) -> Result<()> {
    let mut found: [Vec<f64>; 3] = Default::default();
    let mut ready = Vec::new();
    for target in &both.targets {
        let numbers = || store::mixed(0, size).take(500);
        ready.push(match lookup {
            "Get" => prepare(target.protocol, "Get", numbers().map(store::get))?,
            "List `name==`" => lists(target, numbers().map(store::by_name))?,
            _ => lists(target, numbers().map(store::by_digest))?,
        });
    }
    for turn in 0..=turns {
        for (column, target) in both.turn(turn) {
            if column == 0 && size > THEIR_MOST {
                continue;
            }
            both.settle().await?;
            let Some(requests) = ready.get(column) else { continue };
            let burst = burst::run(target, 1, requests, Until::Time(BURST)).await?;
            if let (true, Some(found)) = (turn > 0, found.get_mut(column)) {
                found.push(burst.median());
            }
        }
    }
    for (line, found) in lines.iter_mut().zip(found) {
        if !found.is_empty() {
            line.push((size, median(found)));
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
