//! Random requests to the Images of a real containerd and to ours, over both protocols: all answers must be
//! equal, except for the differences that `known.rs` lists.

mod answer;
mod filters;
mod generate;
mod known;
mod limits;
mod servers;
mod step;

use crate::live::engine::compare;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn random_requests_are_answered_alike() {
    compare::<servers::Servers>().await;
}
