//! The client of a containerd.
//!
//! - [`client`]: the calls that are made of it, over its gRPC socket; [`codec`]: this crate's messages on
//!   tonic's client
//! - [`paging`]: listing more images than one reply may carry
//! - [`write`]: records put into a containerd for an admin, by `export`

pub mod client;
pub mod codec;
pub mod paging;
pub mod write;
