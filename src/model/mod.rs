//! What the service speaks of, as containerd defines it: images, namespaces, digests, filters, errors.
//!
//! Pure: no I/O, no clock, no store. Everything here can be tested with values alone.

pub mod digest;
pub mod error;
pub mod filter;
pub mod go;
pub mod image;
pub mod label;
pub mod namespace;
pub mod printable;
pub mod unix_time;

pub use error::{Error, Result};
pub use namespace::Namespace;
pub use unix_time::UnixTime;
