//! Proxy mode: Images in front of a running containerd.
//!
//! - [`images`]: writes go to containerd, reads come from its files or from LMDB
//! - [`catalog`]: batches and undo
//! - [`live`]: the files of containerd, while they can be used; [`live_reads`]: the reads from them
//! - [`compare`]: the copy in LMDB beside containerd's database
//! - [`ask`]: one call to containerd, with a timeout; [`outcome`]: what can become of it
//! - [`record_locks`]: one writer per record
//! - [`sync_state`]: the namespaces of which no event was missed
//! - [`watch`]: the events of containerd
//! - [`reconcile`]: makes a namespace equal to containerd's; [`reconcile_queue`]: the scheduled work
//!
//! This module has no server code. It writes to containerd only what a client requested, the lease that keeps
//! content during an undo, and the probe events of [`watch`].

mod ask;
mod catalog;
pub(crate) mod compare;
pub mod images;
pub(crate) mod live;
pub(crate) mod live_reads;
mod outcome;
pub mod reconcile;
pub(crate) mod reconcile_queue;
pub(crate) mod record_locks;
pub(crate) mod sync_state;
pub mod watch;
