//! containerd's Images service over LMDB, on ttrpc and gRPC.
//!
//! # Map of the code
//!
//! A module imports only modules of the rows below it; `tests/architecture/` checks this.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | parses the command line and the settings, starts logging, calls one function; `cli::fleet` is the program `lmdb-images-fleet` |
//! | `fleet` | reports to the PostgreSQL of a fleet, also through NATS; its schema and queries |
//! | [`daemon`], [`admin`] | the sockets and the order of start and stop; the commands, one file each |
//! | [`transport`] | gRPC and ttrpc: connections, messages, routing, status codes |
//! | [`health`] | tests whether the store and containerd can answer |
//! | [`proxy`] | Images in front of a containerd |
//! | [`service`] | the operations of Images and of the services around it, on the local store |
//! | [`containerd`] | the client for a containerd |
//! | [`store`] | records in LMDB; the only module with heed and `unsafe` |
//! | [`limits`], [`clock`], [`metrics`] | limits that clients share; the system's clock; counters |
//! | [`model`] | images, namespaces, digests, filters, errors: values only |
//! | [`api`], [`log_throttle`] | messages generated from `protos/`; limits on log lines that clients cause |
//!
//! The crates under `crates/` import nothing from this crate.
//!
//! # The path of a request
//!
//! A Create over gRPC, standing alone (without a containerd):
//!
//! 1. [`transport::conn::listener`] accepts the connection, [`transport::conn::placement`] chooses its
//!    worker thread, and [`transport::conn::admission`] counts the call.
//! 2. [`transport::grpc::server`] reads the call, [`transport::grpc::routes::standalone`] finds its
//!    method, and [`transport::grpc::message`] reads the request within a memory budget.
//!    (Over ttrpc, [`transport::ttrpc::server`] does the same, behind [`transport::ttrpc::guard`].)
//! 3. [`service::local`] checks the image by the rules of [`model::image`] and sends a job to the writer
//!    thread, [`store::engine::writer`].
//! 4. On the writer thread, [`service::images`] makes the record, and [`store::engine::transaction`] puts
//!    it under its key ([`store::schema`]) with a checksum ([`store::schema::value`]).
//! 5. [`store::engine::committer`] appends the changes of a group of jobs to the [`store::journal`] and
//!    waits for the disk. Then [`store::engine::version`] shows them to readers. A later checkpoint moves
//!    them to LMDB's file.
//! 6. The reply takes the same path back.
//!
//! `docs/architecture.md` has more, also about reads.
//!
//! # Examples
//!
//! Open a store, write an image and read it back:
//!
//! ```
//! use lmdb_images::api::images::Image;
//! use lmdb_images::store::{Kind, Records, Transaction};
//! use lmdb_images::{Namespace, Store};
//! use protobuf::Message;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let store = Store::open(folder.path())?;
//! let namespace = Namespace::parse("default")?;
//! let image = Image { name: "docker.io/library/alpine:3".into(), ..Image::default() };
//! let message = image.write_to_bytes()?;
//!
//! let (to, name) = (namespace.clone(), image.name.clone());
//! store.writer().write_blocking(move |transaction: &mut Transaction<'_>| {
//!     transaction.put(&to, Kind::Image, &name, &message, None)
//! })?;
//!
//! let stored = store.read(|snapshot| {
//!     Ok(snapshot.record(&namespace, Kind::Image, &image.name)?.map(<[u8]>::to_vec))
//! })?;
//! assert_eq!(Image::parse_from_bytes(&stored.unwrap())?, image);
//! # Ok(())
//! # }
//! ```
//!
//! Serve a store, and call it over gRPC:
//!
//! ```
//! use lmdb_images::containerd::client::GrpcClient;
//! use lmdb_images::store::Retention;
//! use lmdb_images::transport::Limits;
//! use lmdb_images::{Config, Daemon, Namespace};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let daemon = Daemon::start(&Config {
//!     root: folder.path().join("root"),
//!     state: folder.path().join("state"),
//!     containerd: None,
//!     gid: None,
//!     readonly: false,
//!     readonly_gid: None,
//!     metrics: None,
//!     limits: Limits::default(),
//!     reply_budget: 64 << 20,
//!     log_keep: Retention::default(),
//!     undo_keep: None,
//! })
//! .await?;
//!
//! let client = GrpcClient::lazy(daemon.grpc());
//! let image = client.image(&Namespace::parse("default")?, "docker.io/library/alpine:3").await?;
//! assert!(image.is_none());
//! daemon.stop().await;
//! # Ok(())
//! # }
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr, unreachable_pub)]
// The documentation is read with its private items: this is a program first.
#![allow(rustdoc::private_intra_doc_links)]

pub mod admin;
pub mod api;
pub mod cli;
pub mod clock;
pub mod containerd;
pub mod daemon;
#[cfg(feature = "fleet")]
pub(crate) mod fleet;
pub(crate) mod health;
pub mod limits;
pub(crate) mod log_throttle;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod service;
pub mod store;
pub mod transport;

pub use daemon::{Config, Daemon};
pub use model::{Error, Namespace};
pub use store::Store;
