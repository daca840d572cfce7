//! The store: records of containerd in one LMDB environment.
//!
//! From the bottom up; a folder imports only what stands above it in this list:
//!
//! - [`dir`]: the folder of a store: its owner, its permissions, its file system
//! - [`bounds`]: the sizes with which an environment is opened
//! - `error`: LMDB's failures as the crate's error
//! - [`mod@format`]: LMDB's file format, read and verified page by page in safe Rust
//! - [`schema`]: which key holds what, drawn as a tree; [`lmdb`]: opening the environment, its reader
//!   table
//! - [`journal`]: the file in which a change is on disk first, and the overlay of what it holds
//! - [`read`]: looking records up, over LMDB's file and the overlay
//! - [`recovery`]: what is verified before LMDB maps a file, and saving records out of a damaged one
//! - [`engine`]: the writer thread, group commit, checkpoints, reopening after a fault of the disk
//! - [`Store`]: a store that this process owns; [`ReadOnlyStore`]: one that it only reads
//!
//! Synchronous. It knows names and bytes; what a request means is `service`'s. This is the only
//! module that names heed, and the only one with `unsafe`.

pub mod bounds;
pub mod dir;
pub mod engine;
mod error;
pub mod format;
pub mod journal;
pub mod lmdb;
pub mod read;
mod read_only;
pub mod recovery;
pub mod schema;
#[allow(clippy::module_inception)]
mod store;

pub use engine::transaction::Transaction;
pub use read::records::{Records, Snapshot};
pub use read::scan::Entry;
pub use read::view::Revision;
pub use read_only::ReadOnlyStore;
pub use schema::keys::Kind;
pub use store::Store;
