//! The client of a containerd.
//!
//! - [`client`]: the calls over containerd's gRPC socket
//! - [`content`]: takes up blobs that lie on containerd's disk, and labels them; [`lease`]: leases;
//!   [`plugins`]: where containerd keeps its files
//! - [`codec`]: this crate's messages on tonic's client
//! - [`paging`]: lists more images than one reply may carry
//! - [`mod@write`]: stores records in a containerd, for `export`

pub mod client;
pub mod codec;
pub mod content;
pub mod lease;
pub mod paging;
pub mod plugins;
pub mod write;
