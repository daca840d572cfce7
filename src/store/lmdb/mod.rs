//! LMDB itself: [`open`] maps an environment and takes snapshots of it; [`reader_table`] says which
//! process holds which snapshot.

pub(crate) mod open;
pub(crate) mod reader_table;
