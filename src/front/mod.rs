//! Speaking to a containerd.
//!
//! - [`client`]: the calls made of a containerd, over its gRPC socket
//! - [`codec`]: this crate's messages on tonic's client
//! - [`parts`]: listing more images than one reply may carry
//!
//! So far only `admin::import` uses it. Standing in front of a containerd (write-through, following
//! its events, resync) will live here too; nothing of a server does.

pub mod client;
pub mod codec;
pub mod parts;
