//! Damaged files.
//!
//! - [`verify`]: what is checked of a data file before LMDB maps it
//! - [`meta_sync`]: writing the meta pages again before the first write
//! - [`salvage`]: records out of a damaged file, without LMDB

pub(crate) mod meta_sync;
pub(crate) mod salvage;
pub mod verify;
