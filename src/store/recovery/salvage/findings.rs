//! The result of a salvage: records and damage.

use crate::store::schema::checkpoint_id::Facts;

/// The place where a record was found, from the certain ones to those that may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the live state.
    Live,
    /// On a page of the live state that nothing leads to.
    Orphan,
    /// In the state before the last change.
    Previous,
    /// On some page: it may be an older version, or have been deleted.
    Unreferenced,
}

/// A record with a right checksum.
#[derive(Debug, Clone)]
pub(crate) struct Saved<'m> {
    /// It was set aside.
    pub aside: bool,
    /// The key.
    pub key: &'m [u8],
    /// The message.
    pub message: &'m [u8],
    /// The place where the record was found.
    pub origin: Origin,
}

/// The counts of a salvage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Nothing is damaged, values included.
    pub whole: bool,
    /// Which state is the newest. If not, because a meta page is damaged, the last change may be missing.
    pub certain: bool,
    /// Records that the live state says it has, set aside ones included; unknown when that is
    /// damaged.
    pub expected: Option<u64>,
    /// The damage.
    pub damage: Vec<String>,
    /// Keys of records whose value is damaged.
    pub damaged: Vec<Vec<u8>>,
    /// The store and its last checkpoint, by the live state.
    pub(crate) facts: Facts,
    /// The transaction of the live state.
    pub transaction: Option<u64>,
}
