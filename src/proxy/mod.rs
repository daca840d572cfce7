//! Proxy mode: Images in front of a running containerd.
//!
//! - [`images`]: writes go to containerd, reads come from LMDB; `ask`: one call of containerd;
//!   [`record_locks`]: one writer a record
//! - [`sync_state`]: which namespaces are synced
//! - [`watch`]: containerd's events; [`reconcile`]: comparing a namespace with containerd's;
//!   [`reconcile_queue`]: what is to be compared
//!
//! Nothing of a server; and nothing is written to containerd that a client did not ask for.

mod ask;
pub mod images;
pub mod reconcile;
pub mod reconcile_queue;
pub mod record_locks;
pub mod sync_state;
pub mod watch;
