//! Proxy mode: Images in front of a running containerd.
//!
//! - [`images`]: writes go to containerd, reads come from its files or from LMDB
//! - [`service`]: its calls; [`mod@read`]: the way of a read; [`mod@write`]: the way of a write; [`copy`]: the copy in LMDB
//! - [`catalog`]: batches and undo; [`catch_up`]: makes the copy new enough for pages
//! - [`live`]: the files of containerd, while they can be used; [`live_reads`]: the reads from them;
//!   [`known_files`]: where they are, for a daemon that starts first
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
