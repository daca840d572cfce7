//! The identifier of the last checkpoint in LMDB's file, and of the journal that belongs to it.

use heed::{RoTxn, RwTxn};

use super::tables::Tables;
use crate::model::Result;
use crate::store::error::lmdb_error;

pub(crate) const UUID: &str = "uuid";
pub(crate) const CHECKPOINT: &str = "checkpoint";
const JOURNAL: &str = "journal";

/// The record of the last checkpoint in LMDB's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastCheckpoint {
    /// The identifier of the checkpoint.
    pub(crate) id: u64,
    /// The checkpoint that the journal's header named when this one was made; `None` if the file needs
    /// no journal.
    pub(crate) journal: Option<u64>,
}

/// The journal that LMDB's file expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The UUID of the store.
    pub(crate) uuid: String,
    /// The last checkpoint of the store.
    pub(crate) last: LastCheckpoint,
}

/// Reads the last checkpoint of a state.
pub(crate) fn last_checkpoint(txn: &RoTxn<'_>, tables: &Tables) -> Result<LastCheckpoint> {
    let read_error = |e: heed::Error| lmdb_error("reading the store", &e);
    let id = number(tables.meta.get(txn, CHECKPOINT).map_err(read_error)?).unwrap_or_default();
    let journal = number(tables.meta.get(txn, JOURNAL).map_err(read_error)?);
    Ok(LastCheckpoint { id, journal })
}

/// Decodes a number of `meta`.
pub(crate) fn number(stored: Option<&[u8]>) -> Option<u64> {
    stored.and_then(|stored| stored.try_into().ok()).map(u64::from_le_bytes)
}

/// A random identifier for the next checkpoint. A client cannot guess it, so a label that looks like an
/// entry of the journal is never replayed.
pub(crate) fn next_checkpoint() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// Records the checkpoint that a transaction makes.
pub(crate) fn put_checkpoint(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    checkpoint: LastCheckpoint,
) -> heed::Result<()> {
    tables.meta.put(txn, CHECKPOINT, &checkpoint.id.to_le_bytes())?;
    match checkpoint.journal {
        Some(named) => tables.meta.put(txn, JOURNAL, &named.to_le_bytes()),
        None => tables.meta.delete(txn, JOURNAL).map(drop),
    }
}

/// The entries of the database `meta` that a salvage found in a damaged file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct StoreIdentity {
    /// The store's UUID.
    pub(crate) uuid: Option<String>,
    /// The identifier of the last checkpoint.
    pub(crate) checkpoint: Option<u64>,
    /// The checkpoint that the journal's header named then.
    pub(crate) journal: Option<u64>,
}

impl StoreIdentity {
    /// Adds an entry of the database.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        if name == UUID.as_bytes() {
            self.uuid = std::str::from_utf8(value).ok().map(str::to_owned);
        } else if name == CHECKPOINT.as_bytes() {
            self.checkpoint = number(Some(value));
        } else if name == JOURNAL.as_bytes() {
            self.journal = number(Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Namespace;
    use crate::store::Kind;

    #[test]
    fn the_identifier_of_a_checkpoint_is_random() {
        let mut seen = std::collections::BTreeSet::from([0]);
        for _ in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let store = crate::store::Store::open(dir.path()).unwrap();
            let namespace = Namespace::parse("n").unwrap();
            for name in ["a", "b"] {
                let put = {
                    let namespace = namespace.clone();
                    move |c: &mut crate::store::Transaction<'_>| {
                        c.put(&namespace, Kind::Lease, name, b"", None)
                    }
                };
                let last = store.read(|s| last_checkpoint(s.view.base().0, s.view.base().1));
                assert!(seen.insert(last.unwrap().id), "{seen:?}");
                store.writer().write_blocking(put).unwrap();
                store.checkpoint().unwrap();
            }
        }
    }
}
