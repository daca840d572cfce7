//! containerd's Images service over LMDB, on ttrpc and gRPC.
//!
//! # A map of the code
//!
//! A module imports only what stands below it (`tests/layers.rs` keeps that true):
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | parses the command line, starts logging, calls one function |
//! | [`daemon`], [`admin`] | which sockets there are and the order of start and end; an admin's command a file |
//! | [`transport`] | gRPC and ttrpc: connections, messages, bounds, status codes |
//! | [`front`] | speaking to a containerd |
//! | [`service`] | what the requests mean, on the local store |
//! | [`store`] | records in LMDB; the only place of heed and of `unsafe` |
//! | [`clock`] | reading the system's clock, whatever it says |
//! | [`model`] | images, namespaces, digests, filters, errors: values only |
//! | [`api`], [`metrics`], [`log_throttle`] | the messages, generated from `protos/`; what is counted; lines of the log that clients cause |
//!
//! The crate `bbolt-read` (`crates/`) reads containerd's own file; it knows nothing of this one.
//!
//! # The way of a request
//!
//! A Create over ttrpc: `transport::listener` accepts the connection, `transport::ttrpc` takes the
//! frame apart (its bytes watched by `transport::ttrpc_io`), `service::local` checks the request
//! by the rules of `model::image`, and hands a change to `store::writer`; on the writing thread
//! `service::images` makes the record and `store::records` puts it under its key
//! (`store::schema`), with a checksum (`store::value`). After the commit the answer goes back the
//! same way. Over gRPC only the first two steps are others: `transport::grpc` and
//! `transport::grpc_message`.

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
