//! The client of a containerd.
//!
//! - [`client`]: the calls over containerd's gRPC socket
//! - [`codec`]: this crate's messages on tonic's client
//! - [`paging`]: lists more images than one reply may carry
//! - [`mod@write`]: stores records in a containerd, for `export`

pub mod client;
pub mod codec;
pub mod paging;
pub mod write;

/// The header on each call to containerd, made or forwarded. A containerd with the plugin of
/// `containerd-plugin/` asks this daemon for images. It answers a call with this header itself, so that
/// the two never wait for each other.
pub const DIRECT_HEADER: &str = "lmdb-images-direct";
