//! Proxy mode: Images in front of a running containerd.
//!
//! - [`images`]: writes go to containerd, reads come from LMDB
//! - [`ask`]: one call to containerd, with a timeout; [`outcome`]: what can become of it
//! - [`record_locks`]: one writer per record
//! - [`sync_state`]: the namespaces that are synced
//! - [`watch`]: the events of containerd
//! - [`reconcile`]: makes a namespace equal to containerd's; [`reconcile_queue`]: the scheduled work
//!
//! This module has no server code. It writes to containerd only what a client requested, and the
//! probe events of [`watch`].

mod ask;
pub mod images;
mod outcome;
pub mod reconcile;
pub(crate) mod reconcile_queue;
pub(crate) mod record_locks;
pub(crate) mod sync_state;
pub mod watch;
