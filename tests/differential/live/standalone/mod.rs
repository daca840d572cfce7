//! Random requests to the services beside Images, to a real containerd and to a daemon that stands alone:
//! all answers and all events must be equal, but for what `known.rs` lists.

mod answer;
mod deliberate;
mod generate;
mod generate_events;
mod known;
mod play;
mod request;
mod watch;

use std::time::Duration;

use crate::live::images::run;
use crate::support::containerd::Containerd;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn namespaces_leases_and_events_are_answered_alike() {
    let bin = Containerd::bin();
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
