//! Random requests to a real containerd and to us, over both protocols where there are two: all
//! answers must be equal, but for what `differential/known.rs` lists; for the services beside
//! Images also all events, but for what `differential/alone/known.rs` lists.
//!
//! `LMDB_IMAGES_CONTAINERD_BIN=DIR` names the folder of the `containerd` to compare with; without it
//! nothing is compared. `LMDB_IMAGES_DIFFERENTIAL_SECONDS` is for how long (5), `LMDB_IMAGES_SEED`
//! with which sequence to begin. `scripts/soak/differential` runs it against several versions.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod differential {
    use super::common;

    pub mod alone {
        pub mod answer;
        mod deliberate;
        pub mod generate;
        mod generate_events;
        pub mod known;
        pub mod play;
        pub mod request;
        pub mod watch;
    }
    pub mod answer;
    pub mod containerd;
    pub mod filters;
    pub mod generate;
    pub mod known;
    mod limits;
    pub mod random;
    pub mod run;
    pub mod show;
    pub mod step;
    pub mod text;
}

use std::time::Duration;

use differential::alone::play;
use differential::containerd::Containerd;
use differential::run;

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_are_answered_alike() {
    let Some(bin) = Containerd::bin() else { return };
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

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_leases_and_events_are_answered_alike() {
    let Some(bin) = Containerd::bin() else { return };
    let seed = run::seed();
    let time = run::number("LMDB_IMAGES_DIFFERENTIAL_SECONDS").unwrap_or(5);
    let outcome = play::run(&bin, seed, Duration::from_secs(time)).await;
    println!("from LMDB_IMAGES_SEED={seed}");
    for (answer, count) in &outcome.answers {
        println!("{count:8} {answer}");
    }
    for (known, count) in &outcome.known {
        println!("{count:8} known: {known}");
    }
    println!(
        "beside Images: {} sequences, {} operations compared, {} events, {} differences",
        outcome.sequences, outcome.operations, outcome.events, outcome.differences
    );
    assert!(
        outcome.differences == 0,
        "{} sequences differ; one of each kind:\n{}",
        outcome.differences,
        outcome.reports.join("\n")
    );
}
