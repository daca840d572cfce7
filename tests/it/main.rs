//! What needs a daemon and its sockets: one file for each subject.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../support/mod.rs"]
mod support;

mod catalog;
mod catalog_watch;
mod changelog;
mod clock;
mod containerd_ttrpc;
mod deviations;
mod expensive_filters;
mod file_size;
mod forward;
mod gc;
mod images;
mod limits;
mod limits_page;
mod memory;
mod metrics;
mod name_sizes;
mod open_files;
mod proxy_limits;
mod proxy_records;
mod removed_folder;
mod socket_access;
mod standalone;
mod standalone_deviations;
mod systemd_notify;
