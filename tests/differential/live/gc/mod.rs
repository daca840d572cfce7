//! Random images and leases that refer to each other, the same ones in a real containerd and in a daemon
//! of ours that stands alone: after both have collected, both must have the same names left.
//!
//! `LMDB_IMAGES_CONTAINERD_BIN=DIR` names the folder of the `containerd` to compare with; without it
//! nothing is compared. `LMDB_IMAGES_COLLECTOR_ROUNDS` is the number of graphs (20), `LMDB_IMAGES_SEED`
//! the seed of the first. `scripts/soak/collector` runs it at length.

mod graph;
mod server;

use self::graph::Graph;
use self::server::{Left, Server};
use crate::support::Served;
use crate::support::containerd::Containerd;
use crate::support::random::Rng;
use crate::support::settings::{seed, setting};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn both_collectors_leave_the_same_names_of_random_graphs() {
    let bin = Containerd::bin();
    let containerd = Containerd::start(&bin).await;
    let expires = containerd.version >= (2, 0, 0);
    assert!(expires, "before containerd 2.0 images do not expire: name a later containerd");
    let has_back_references = containerd.version >= (2, 3, 0);
    let served = Served::start().await;
    let theirs = Server::connect(&containerd.socket()).await;
    let ours = Server::connect(served.daemon.grpc()).await;
    let seed = seed();
    let rounds = setting("LMDB_IMAGES_COLLECTOR_ROUNDS").unwrap_or(20);
    let (mut images, mut left, mut differences) = (0, 0, Vec::new());
    for round in 0..rounds {
        let seed = seed.wrapping_add(round);
        let graph = Graph::draw(&mut Rng::with_seed(seed), round, has_back_references);
        images += graph.image_count();
        for step in 0..=graph.removals.len() {
            let (expected, found) =
                tokio::join!(play(&theirs, &graph, step), play(&ours, &graph, step));
            left += expected.image_count();
            if expected != found {
                differences.push(format!(
                    "LMDB_IMAGES_SEED={seed}, collection {step}\n{graph:#?}\n\
                     left in containerd: {expected:?}\nleft in ours: {found:?}"
                ));
                break;
            }
        }
        tokio::join!(theirs.clear(&graph.namespaces), ours.clear(&graph.namespaces));
    }
    let (major, minor, patch) = containerd.version;
    println!(
        "containerd {major}.{minor}.{patch}: {rounds} graphs, {images} images, {left} left after \
         collections, {} differences, from LMDB_IMAGES_SEED={seed}",
        differences.len()
    );
    assert!(images == 0 || left > 0, "nothing was ever left: the graphs compare nothing");
    let shown = differences.iter().take(3).cloned().collect::<Vec<_>>();
    assert!(differences.is_empty(), "{}", shown.join("\n\n"));
}

/// Makes the graph, or takes one more thing out of it, and collects.
async fn play(server: &Server, graph: &Graph, step: usize) -> Left {
    match step.checked_sub(1) {
        None => server.make(graph).await,
        Some(at) => server.remove(&graph.removals[at]).await,
    }
    server.collect().await;
    server.left(&graph.namespaces).await
}
