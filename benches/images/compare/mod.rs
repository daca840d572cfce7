//! Measures every operation on both servers, in turn.

mod reads;
mod resources;
mod row;
mod writes;

use serde_json::json;

use self::row::Row;
use crate::report::{Progress, Report, markdown};
use crate::server::Kind;
use crate::targets::{Both, fill};
use crate::{Arguments, Result, machine};

/// The images of the store whose start is measured, as a multiple of those of the compared store.
const START_STORE_FACTOR: u32 = 10;

/// Measures all rows. Returns the goals that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let kind = Kind::containerd(&arguments.containerd)?;
    let version = kind.version()?;
    let dir = machine::folder()?;
    let both = Both::start(&kind, dir.path()).await?;
    let (images, turns) = (arguments.images, arguments.turns);
    let machine = machine::describe(dir.path());
    let teams = (images / 1000).max(1);
    let mut reads = reads::reads(images);
    let progress = Progress::new(u64::from(turns) * (reads.len() as u64 + 1))?;

    progress.say(&format!("filling {version} and lmdb-images with {images} images"));
    for target in both.targets.iter().take(2) {
        fill(target, 0, images, teams).await?;
    }
    progress.say("verifying that both answer the same");
    for read in &reads {
        reads::verify(&both, read, images).await?;
    }

    let mut rows = writes::measure(&both, turns, &progress).await?;
    for read in &mut reads {
        progress.say(&format!("{}, clients {}", read.row.operation, read.row.clients));
        reads::measure(&both, read, images, turns, &progress).await?;
    }
    progress.say("memory, disk, starts");
    rows.extend(reads.into_iter().map(|read| read.row));
    rows.extend(resources::after_the_run(&both).await?);
    rows.push(resources::connections(&kind, &dir.path().join("m")).await?);
    rows.push(resources::starts(&dir.path().join("s"), images * START_STORE_FACTOR, turns).await?);
    progress.done();

    let named = format!("compare-{}", version.replace("containerd ", ""));
    let table = table(&version, &rows);
    let text = format!(
        "{version} and lmdb-images {}, {images} images; {machine}; {}. Medians of {turns} turns.\n\n{table}",
        env!("CARGO_PKG_VERSION"),
        machine::today(),
    );
    let json = json!({
        "containerd": version, "lmdb-images": env!("CARGO_PKG_VERSION"), "images": images,
        "turns": turns, "machine": machine, "day": machine::today(),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    report.table(&named, &text, &json)?;
    Ok(rows.iter().filter_map(Row::missed).collect())
}

fn table(version: &str, rows: &[Row]) -> String {
    let head = [
        "operation",
        "clients",
        version,
        "gRPC",
        "ttrpc",
        "gRPC is better",
        "CPU a call: containerd",
        "gRPC",
        "ttrpc",
    ];
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    markdown(&head.map(Into::into), &cells)
}
