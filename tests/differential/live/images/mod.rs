//! Random requests to a real containerd and to us, over both protocols where there are two: all
//! answers must be equal, but for what `images/known.rs` lists; for the services beside
//! Images also all events, but for what `differential/alone/known.rs` lists.
//!
//! `LMDB_IMAGES_CONTAINERD_BIN=DIR` names the folder of the `containerd` to compare with; without it
//! nothing is compared. `LMDB_IMAGES_DIFFERENTIAL_SECONDS` is for how long (5), `LMDB_IMAGES_SEED`
//! with which sequence to begin. `scripts/soak/differential` runs it against several versions.

pub mod answer;
mod filters;
mod generate;
pub mod known;
mod limits;
pub mod run;
mod step;

use std::time::Duration;

use crate::support::containerd::Containerd;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn random_requests_are_answered_alike() {
    let bin = Containerd::bin();
    let seed = run::seed();
    let time = run::number("LMDB_IMAGES_DIFFERENTIAL_SECONDS").unwrap_or(5);
    let outcome = run::run(&bin, seed, Duration::from_secs(time)).await;
    println!("from LMDB_IMAGES_SEED={seed}");
    for (answer, count) in &outcome.answers {
        println!("{count:8} {answer}");
    }
    for (known, count) in &outcome.known {
        println!("{count:8} known: {known}");
    }
    println!(
        "Images: {} sequences, {} operations compared, {} differences",
        outcome.sequences, outcome.operations, outcome.differences
    );
    assert!(
        outcome.differences == 0,
        "{} sequences differ; one of each kind:\n{}",
        outcome.differences,
        outcome.reports.join("\n")
    );
}
