//! The load program: containerd and lmdb-images side by side, with the same images, the same
//! requests and the same client, on one disk.
//!
//! ```text
//! scripts/bench [compare|growth|beside|catalogue|limits|all] [--images N] [--containerd BINARY|VERSION] …
//! cargo bench -- compare --images 1000
//! ```
//!
//! It starts the measured servers in a temporary folder of its own (under `TMPDIR`), and removes the folder at the end. It
//! touches no running program. `docs/performance.md` describes the measurements and shows the tables.

mod beside;
mod burst;
mod catalogue;
mod client;
mod compare;
mod growth;
mod grpc;
mod idle_watchers;
mod limits;
mod log_cost;
mod machine;
mod plot;
mod report;
mod server;
mod store;
mod targets;
mod ttrpc;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// An error is printed for a person, and ends the run.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measure lmdb-images beside containerd, and how far from the disk and the processor it is
#[derive(Parser)]
#[command(name = "bench", max_term_width = 100)]
struct Arguments {
    /// What to measure
    #[arg(value_enum, default_value_t = Part::Compare)]
    part: Part,

    /// Images in both stores, for "compare"
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    images: u32,

    /// The largest store of "growth" and "catalogue"
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    most: u32,

    /// The containerd to compare with: a program by its path, or 1.6.20, 1.7.24 or 2.1.9 of Debian,
    /// by scripts/lib/get-containerd
    #[arg(long, value_name = "BINARY|VERSION", default_value = "1.6.20")]
    containerd: PathBuf,

    /// How often each server has its turn; the medians of all turns are shown
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,

    /// Where the tables go, as Markdown and as JSON [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Put the tables into README.md and docs/, and the plot too
    #[arg(long)]
    update_docs: bool,

    /// Fail when a ratio that is aimed at is not reached
    #[arg(long)]
    check: bool,

    /// As "cargo bench" passes it
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every operation on both servers, with rates, times, processor, memory and disk
    Compare,
    /// How look-ups grow with the store; makes the plot
    Growth,
    /// Gets beside large Lists, and the memory that Lists take
    Beside,
    /// How far Create, Get and a scan are from what the machine can do
    Limits,
    /// The catalogue: watchers, history, pages, counts; pages of a store of --most images
    Catalogue,
    /// All of these
    All,
}

impl Arguments {
    async fn run(&self) -> Result<()> {
        if self.update_docs && cfg!(debug_assertions) {
            return Err(
                "--update-docs: figures of a debug build say nothing; use scripts/bench".into()
            );
        }
        let out = self.out.clone().unwrap_or_else(|| report::repository().join("target/bench"));
        let report = report::Report::new(&out, self.update_docs)?;
        let wants = |part| self.part == part || self.part == Part::All;
        let mut missed = Vec::new();
        if wants(Part::Compare) {
            missed.extend(compare::run(self, &report).await?);
        }
        if wants(Part::Growth) {
            missed.extend(growth::run(self, &report).await?);
        }
        if wants(Part::Beside) {
            missed.extend(beside::run(self, &report).await?);
        }
        if wants(Part::Catalogue) {
            missed.extend(catalogue::run(self, &report).await?);
        }
        if wants(Part::Limits) {
            limits::run(self, &report).await?;
        }
        for goal in &missed {
            eprintln!("not reached: {goal}");
        }
        if self.check && !missed.is_empty() {
            return Err(format!("{} goals were not reached", missed.len()).into());
        }
        Ok(())
    }
}

/// Runs to the end or until a signal. In both cases the `Drop` of their owners ends the processes that were started.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stopped = async {
        let (interrupt, terminate) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        match (interrupt, terminate) {
            (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
            _ => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = arguments.run() => ended,
        () = stopped => Err("stopped".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}
