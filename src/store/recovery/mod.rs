//! Damaged files.
//!
//! - [`verify`]: checks a data file before LMDB maps it
//! - [`meta_sync`]: writes the meta pages again before the first write
//! - [`salvage`]: saves records from a damaged file, without LMDB

pub(crate) mod meta_sync;
pub(crate) mod salvage;
pub mod verify;
