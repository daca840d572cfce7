//! The schema: which key holds what.
//!
//! - [`databases`]: the tree of databases and keys; opening them
//! - [`table`]: the databases that a change may be in; [`value`]: the header and checksum of a record
//! - [`index`]: which images have a digest or a label
//! - [`migrate`]: bringing a store of an older version to this one

pub mod databases;
pub mod index;
pub mod migrate;
pub mod table;
pub mod value;
