//! The write path.
//!
//! - [`job`]: a change that a caller sends; [`writer`]: the one thread that runs jobs in batches
//! - [`transaction`]: the state that a job reads and changes, in memory
//! - `log_buffer`: the changes of a batch until they are entries of the log; `log_start`: decides whether the log
//!   continues or restarts when a store is opened
//! - [`committer`]: group commit to the journal, and checkpoints into LMDB's file
//! - [`version`]: the pair of LMDB snapshot and overlay that readers pin
//! - [`open_environment`]: one opening of the LMDB environment; [`environment`]: reopens it after a fault of
//!   the disk
//! - `create`: a new store

pub(crate) mod committer;
pub(crate) mod create;
pub(crate) mod environment;
pub(crate) mod job;
pub(crate) mod log_buffer;
pub(crate) mod log_start;
pub(crate) mod open_environment;
pub(crate) mod transaction;
pub(crate) mod version;
pub(crate) mod writer;
