//! The log: every change of an image that this store has had, in order.
//!
//! An entry is an encoded [`Change`](crate::api::catalog::Change): the whole state before and after, the
//! actor, and the reason. Its number, `seq`, is one more than that of the entry before. The entry is one
//! more operation of the change that it records: in the same entry of the journal, and in the same
//! checkpoint. So a refused change leaves no entry, and an answered one has exactly one.
//!
//! - [`cause`]: the actor of a change, and its reason
//! - [`entry`]: the bytes of an entry, and the chain that ties it to the one before
//! - [`keep`]: what a checkpoint does with the log: old entries go
//!
//! **Chain.** Each entry ends with eight bytes of a hash over the chain of the entry before and all else
//! of this one. Two stores that were one until some entry have other chains from there on: so a reader
//! that knows one of them notices a clone, and a disk that was rolled back.
//!
//! **Epoch.** Numbers are consecutive within an epoch, a random number in `meta`. There is a new one after
//! a restore and a recovery, and when the last entry is damaged: a reader that knows another epoch reads
//! all images again. While the log is off there is none.
//!
//! **Readers.** [`Store`](crate::store::Store) has all that a service needs, and none of it holds a
//! snapshot:
//!
//! - [`log_head`](crate::store::Store::log_head): where the log begins and ends, from memory
//! - [`watch_log`](crate::store::Store::watch_log): the same, with a wake-up; what it tells can be read
//! - [`read_log`](crate::store::Store::read_log): entries from a number on, copied
//!
//! [`Snapshot::log_head`](crate::store::Snapshot::log_head) tells to which entry a snapshot belongs, which is
//! what a List needs so that a client can watch from it.

pub(crate) mod cause;
pub mod entry;
pub(crate) mod keep;

use uuid::Uuid;

/// Where the log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// The epoch. Numbers are consecutive within it.
    pub epoch: Uuid,
    /// The oldest entry, or the next one if there is none.
    pub first: u64,
    /// The newest entry; 0 before there is one.
    pub last: u64,
    /// The newest entry's chain; 0 before there is one.
    pub chain: u64,
}

impl LogHead {
    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.last.saturating_add(1).saturating_sub(self.first)
    }

    /// Whether the log has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
