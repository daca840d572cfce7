//! The log: every change of an image that this store has had, in order.
//!
//! An entry is an encoded [`Change`](crate::api::catalog::Change): the whole state before and after, the
//! actor, and the reason. Its number, `seq`, is one more than that of the entry before. The entry is one
//! more operation of the change that it records: in the same entry of the journal, and in the same
//! checkpoint. So a refused change leaves no entry, and an answered one has exactly one.
//!
//! - [`cause`]: the actor of a change, and its reason
//! - [`entry`]: the bytes of an entry, and the chain that ties it to the one before
//! - [`keep`]: the log in a checkpoint, which removes old entries
//!
//! **Chain.** Each entry ends with eight bytes of a hash over the chain of the previous entry and the rest of this
//! one. Two stores that were one store until some entry have different chains from there on. So a reader that
//! knows one of the chains notices a cloned store, and a disk that was rolled back.
//!
//! **Epoch.** Numbers are consecutive within an epoch, a random number in `meta`. A new epoch starts after a
//! restore and a recovery, and when the last entry is damaged. A reader that knows another epoch reads all images
//! again. While the log is off, there is no epoch.
//!
//! **Readers.** [`Store`](crate::store::Store) has the functions that a service needs. None of them keeps a snapshot
//! open:
//!
//! - [`log_head`](crate::store::Store::log_head): the ends of the log, from memory
//! - [`watch_log`](crate::store::Store::watch_log): the same, with a wake-up; a reader can read up to these ends
//! - [`read_log`](crate::store::Store::read_log): copies of the entries from a number on
//!
//! [`Snapshot::log_head`](crate::store::Snapshot::log_head) returns the newest entry of a snapshot. A List returns
//! it, so that a client can watch from there.

pub(crate) mod cause;
pub mod entry;
pub(crate) mod keep;

use uuid::Uuid;

/// The ends of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// The epoch. Numbers are consecutive within it.
    pub epoch: Uuid,
    /// The number of the oldest entry, or of the next one if the log has no entry.
    pub first: u64,
    /// The number of the newest entry; 0 before the first one.
    pub last: u64,
    /// The chain of the newest entry; 0 before the first one.
    pub chain: u64,
}

impl LogHead {
    /// The number of entries.
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
