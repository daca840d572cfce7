//! Proxy mode: Images in front of a running containerd.
//!
//! Writes go to containerd. Reads come from containerd's files, or else from containerd, or from the copy in
//! LMDB.
//!
//! - [`images`]: the state that all calls share
//! - [`service`]: the five calls of Images; [`mod@read`]: the steps of a read; [`mod@write`]: the steps of a
//!   write; [`copy`]: stores and removes records of the copy
//! - [`catalog`]: batches and undo; [`catch_up`]: brings the copy up to date before a page is read
//! - [`live`]: containerd's files, and whether they may be used; [`live_reads`]: the reads from them;
//!   [`known_files`]: their paths, for a daemon that starts before containerd
//! - [`compare`]: compares the copy with containerd's database
//! - [`ask`]: one call to containerd, with a timeout; [`outcome`]: its possible outcomes
//! - [`record_locks`]: one writer per record
//! - [`sync_state`]: whether events of a namespace were missed
//! - [`watch`]: the events of containerd
//! - [`reconcile`]: makes a namespace equal to containerd's; [`reconcile_queue`]: the scheduled work
//!
//! This module has no server code. It writes to containerd only what a client requested, the lease that keeps
//! content during an undo, and the probe events of [`watch`].

mod ask;
mod catalog;
mod catch_up;
pub(crate) mod compare;
mod copy;
pub mod images;
mod known_files;
pub(crate) mod live;
pub(crate) mod live_reads;
mod outcome;
mod read;
pub mod reconcile;
pub(crate) mod reconcile_queue;
pub(crate) mod record_locks;
mod service;
pub(crate) mod sync_state;
pub(crate) mod undo_keep;
pub mod watch;
mod write;
