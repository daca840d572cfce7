//! Two ways to the same answer, compared: a live containerd, recorded answers, tables made by Go, a
//! model, or a scan of every record.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../support/mod.rs"]
mod support;

mod bolt;
mod filter_properties;
mod fuzz_corpus;
mod live;
mod plan_properties;
mod recorded_answers;
