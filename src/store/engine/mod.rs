//! The write path.
//!
//! - [`job`]: a change that a caller hands in; [`writer`]: the one thread that runs jobs in batches
//! - [`transaction`]: what a job sees and changes, in memory
//! - `log_buffer`: what the jobs of a batch add to the log
//! - `log_start`: what becomes of the log when a store is opened
//! - [`committer`]: group commit to the journal, and checkpoints into LMDB's file
//! - [`version`]: the pair of LMDB snapshot and overlay that readers pin
//! - [`environment`]: the open environment, reopened after a fault of the disk

pub(crate) mod committer;
pub(crate) mod environment;
pub(crate) mod job;
pub(crate) mod log_buffer;
pub(crate) mod log_start;
pub(crate) mod transaction;
pub mod version;
pub(crate) mod writer;
