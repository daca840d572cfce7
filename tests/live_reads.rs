//! What is answered from the files of a running containerd is what containerd itself answers: messages,
//! pieces, codes and sentences, over random names, digests, offsets, sizes and namespaces, and content that
//! is missing, half written or damaged. Then faults: where the files cannot be used, containerd answers.
//!
//! `LMDB_IMAGES_CONTAINERD_BIN` names the containerd, `LMDB_IMAGES_SECONDS` for how long random requests are
//! compared, and `LMDB_IMAGES_SEED` the seed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;
#[path = "differential/containerd.rs"]
mod containerd;
#[path = "live_reads/content.rs"]
mod content;
#[path = "live_reads/faults.rs"]
mod faults;
#[path = "live_reads/front.rs"]
mod front;
#[path = "live_reads/random.rs"]
mod random;
