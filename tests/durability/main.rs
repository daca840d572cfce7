//! What survives crashes, power cuts and damage: one file or folder for each kind of fault.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../support/mod.rs"]
mod support;

mod corruption;
mod crash;
mod histories;
mod journal_corruption;
mod power_cut;
mod readers;
mod recover_history;
