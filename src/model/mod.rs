//! The terms of the service as containerd defines them: images, namespaces, digests, filters, errors.
//!
//! Pure functions and values: no I/O, no clock, no store.

pub(crate) mod digest;
pub(crate) mod error;
pub mod filter;
pub mod image;
pub mod label;
pub(crate) mod namespace;
pub mod printable;
pub(crate) mod reference;
pub(crate) mod unix_time;

pub use error::{Context, Error, Result};
pub use namespace::Namespace;
pub(crate) use unix_time::UnixTime;
