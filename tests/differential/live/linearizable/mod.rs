//! Reads through a daemon in front of a live containerd are linearizable: clients on containerd's socket and
//! on all of ours read and change a few names, while both daemons are killed and stopped for a moment,
//! namespaces go, and Transfers write. For each name one order of all calls must explain every
//! answer ([`register`]).
//!
//! - `LMDB_IMAGES_LINEARIZABLE_SECONDS`: for how long; without it two rounds are made
//! - `LMDB_IMAGES_LINEARIZABLE_DAEMON`: another `lmdb-images` to be tried, such as an older one
//! - `LMDB_IMAGES_SEED`: the seed of the calls and the disturbances; time decides the rest

mod client;
mod operation;
mod register;
mod run;
