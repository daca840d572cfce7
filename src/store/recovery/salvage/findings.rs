//! The result of a salvage: records and damage.

use crate::store::schema::checkpoint_id::StoreIdentity;
use crate::store::schema::table::Table;

/// The place where a record was found, from the most to the least certain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the live state.
    Live,
    /// On a page of the live state that no other page refers to.
    Orphan,
    /// In the state before the last checkpoint.
    Previous,
    /// On any other page: the record may be an older version, or may have been deleted.
    Unreferenced,
}

/// A record with a correct checksum.
#[derive(Debug, Clone)]
pub(crate) struct SavedRecord<'m> {
    /// The table of the record: `Records` or `SetAside`.
    pub table: Table,
    /// The key.
    pub key: &'m [u8],
    /// The message.
    pub message: &'m [u8],
    /// The place where the record was found.
    pub origin: Origin,
}

/// The results of a salvage of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The file has no damage, neither in its pages nor in its values.
    pub is_whole: bool,
    /// Both meta pages are readable enough to tell which state is the newest. If not, the last checkpoint
    /// may be missing.
    pub is_newest_known: bool,
    /// The number of records in the live state, including those that are set aside. `None` if the damage
    /// hides it.
    pub expected_records: Option<u64>,
    /// The damage, one line for each place.
    pub damage: Vec<String>,
    /// The keys of records whose value is damaged.
    pub damaged_keys: Vec<Vec<u8>>,
    /// The store and its last checkpoint, as the live state records them.
    pub(crate) identity: StoreIdentity,
    /// The number of the live state's transaction.
    pub transaction: Option<u64>,
}
