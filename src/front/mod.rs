//! Standing in front of a containerd.
//!
//! - [`client`]: the calls made of a containerd, over its gRPC socket; [`codec`]: this crate's
//!   messages on tonic's client; [`parts`]: listing more images than one reply may carry
//! - [`records`]: records put into a containerd for an admin, by `export`
//! - [`images`]: Images through it: writes to containerd, reads from LMDB; `ask`: asking it;
//!   [`locks`]: one a record
//! - [`spaces`]: which namespaces are current
//! - [`health`]: whether calls can be answered
//! - [`follow`], [`resync`]: what changes behind our back; [`wanted`]: what is to be read again
//!
//! Nothing of a server; and nothing is written to containerd that a client, or an admin, did not ask for.

mod ask;
pub mod client;
pub mod codec;
pub mod follow;
pub mod health;
pub mod images;
pub mod locks;
pub mod parts;
pub mod records;
pub mod resync;
pub mod spaces;
pub mod wanted;
