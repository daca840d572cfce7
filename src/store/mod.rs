//! The store: records of containerd in one LMDB environment.
//!
//! From the bottom up; a folder imports only what stands above it in this list:
//!
//! - [`dir`]: the folder of a store: its owner, its permissions, its file system
//! - [`bounds`]: the sizes of an environment
//! - `error`: converts LMDB's failures to the crate's error
//! - [`schema`]: which key holds what, drawn as a tree; [`lmdb`]: opening the environment, its reader
//!   table
//! - [`changelog`]: every change of an image: the bytes of its entries, and which of them are kept
//! - [`journal`]: the file to which a write goes first, and the overlay of its writes
//! - [`read`]: reads records from LMDB's file and the overlay
//! - [`recovery`]: verifies a file before LMDB maps it, and saves records from a damaged file
//! - [`engine`]: the writer thread, group commit, checkpoints, reopening after a disk failure
//! - [`Store`]: a store that this process owns; [`ReadOnlyStore`]: a store that it only reads
//!
//! The store is synchronous and handles names and bytes; [`service`](crate::service) interprets
//! requests. No other module uses heed or `unsafe`.

pub(crate) mod bounds;
pub mod changelog;
pub(crate) mod dir;
pub(crate) mod engine;
mod error;
pub mod journal;
pub(crate) mod lmdb;
pub(crate) mod read;
mod read_only;
pub mod recovery;
pub mod schema;
#[allow(clippy::module_inception)]
mod store;

pub use changelog::LogHead;
pub use changelog::cause::{Actor, Cause, Origin};
pub(crate) use changelog::entry::whole_state;
pub use engine::transaction::Transaction;
pub(crate) use read::changelog::LogPage;
pub use read::records::{Records, Snapshot};
pub use read::scan::{RecordKey, RecordRef};
pub(crate) use read::view::Revision;
pub use read_only::ReadOnlyStore;
pub use schema::keys::Kind;
pub(crate) use schema::keys::position_of;
pub use schema::log_meta::Retention;
pub use store::Store;
