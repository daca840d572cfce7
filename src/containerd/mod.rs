//! The client of a containerd, and the reader of its files.
//!
//! - [`client`]: the calls over containerd's gRPC socket
//! - [`content`]: takes up blobs that lie on containerd's disk, and labels them
//! - [`codec`]: this crate's messages on tonic's client
//! - [`listener`]: which process listens on a socket
//! - [`leases`]: leases that keep content
//! - [`partition`]: lists more images than one reply may carry
//! - [`mod@write`]: stores records in a containerd, for `export`
//! - [`layout`]: where containerd keeps its files
//! - [`database`]: its `meta.db`, read while it runs; [`schema`]: the records in it
//! - [`blobs`]: the files of its content

pub(crate) mod blobs;
pub mod client;
pub mod codec;
pub(crate) mod content;
pub(crate) mod database;
pub(crate) mod layout;
pub(crate) mod leases;
pub(crate) mod listener;
pub(crate) mod partition;
pub(crate) mod schema;
pub(crate) mod write;

/// The header on each call to containerd, made or forwarded. A containerd with the plugin of
/// `containerd-plugin/` asks this daemon for images. It answers a call with this header itself, so that
/// the two never wait for each other.
pub(crate) const DIRECT_HEADER: &str = "lmdb-images-direct";
