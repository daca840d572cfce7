//! The client of a containerd.
//!
//! - [`client`]: the calls over containerd's gRPC socket
//! - [`codec`]: this crate's messages on tonic's client
//! - [`paging`]: lists more images than one reply may carry
//! - [`mod@write`]: stores records in a containerd, for `export`

pub mod client;
pub mod codec;
pub(crate) mod paging;
pub(crate) mod write;
