//! Random requests to the services beside Images, to a real containerd and to a daemon that stands alone:
//! all answers and all events must be equal, except for the differences that `known.rs` lists.

mod answer;
mod deliberate;
mod generate;
mod generate_events;
mod known;
mod request;
mod servers;
mod watch;

use crate::live::engine::compare;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn namespaces_leases_and_events_are_answered_alike() {
    compare::<servers::Servers>().await;
}
