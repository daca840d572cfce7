//! containerd's Images service over LMDB, on ttrpc and gRPC.
//!
//! # A map of the code
//!
//! A module imports only what stands below it; `tests/architecture.rs` checks this.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | parses the command line and the settings, starts logging, calls one function |
//! | [`daemon`], [`admin`] | the sockets, the order of start and stop; the commands, one file each |
//! | [`transport`] | gRPC and ttrpc: connections, messages, routing, status codes |
//! | [`health`] | tests whether the store and containerd can answer |
//! | [`proxy`] | Images in front of a containerd |
//! | [`service`] | what requests mean, on the local store |
//! | [`containerd`] | the client for a containerd |
//! | [`store`] | records in LMDB; the only module with heed and `unsafe` |
//! | [`limits`] | the memory of requests and replies |
//! | [`model`] | images, namespaces, digests, filters, errors: values only |
//! | [`api`], [`metrics`], [`log_throttle`], [`clock`] | messages generated from `protos/`; counters; log lines that clients cause; the system's clock |
//!
//! The crate `bbolt-read` (`crates/`) reads containerd's own file; it knows nothing of this crate.
//!
//! `docs/architecture.md` follows a Create and a Get through these modules.

#![deny(clippy::print_stdout, clippy::print_stderr)]
// The documentation is read with its private items: this is a program first.
#![allow(rustdoc::private_intra_doc_links)]

pub mod admin;
pub mod api;
pub mod cli;
pub mod clock;
pub mod containerd;
pub mod daemon;
pub mod health;
pub mod limits;
pub mod log_throttle;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod service;
pub mod store;
pub mod transport;
