//! Reads every record of a state for `check`: whether the record is whole, and whether its index entries and its
//! time of expiry agree with it. The caller interprets the messages.

use crate::model::{Namespace, Result};
use crate::store::schema::index;
use crate::store::schema::keys;
use crate::store::schema::table::Table;
use crate::store::schema::value;
use crate::store::schema::value::Damaged;
use crate::store::{Kind, RecordRef, Snapshot};

/// A stored record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordAudit<'t> {
    /// Whether the record was set aside.
    pub is_set_aside: bool,
    /// The key of the record.
    pub key: &'t [u8],
    /// The message, if its checksum is correct.
    pub message: Result<&'t [u8], Damaged>,
    /// The entries of the record in the index.
    pub index_entries: IndexEntries,
    /// The stored expiry time.
    pub expires: Option<&'t [u8]>,
}

/// The number of index entries of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IndexEntries {
    /// Number of entries that the record needs.
    pub(crate) needed: u64,
    /// Number of these entries that exist.
    pub(crate) present: u64,
}

/// The number of entries of each database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Records, of namespaces too.
    pub records: u64,
    /// Entries of the index.
    pub index: u64,
    /// Records that may be collected.
    pub expiring: u64,
    /// Records that were set aside.
    pub set_aside: u64,
}

impl Snapshot<'_> {
    /// Calls `visit` with every record in order of keys, then with those that are set aside.
    pub(crate) fn for_each_record(
        &self,
        visit: &mut dyn FnMut(RecordAudit<'_>) -> Result<()>,
    ) -> Result<()> {
        for table in [Table::Records, Table::SetAside] {
            let is_set_aside = table == Table::SetAside;
            for record in self.view.range_from(table, b"")? {
                let (key, stored) = record?;
                let message = value::decode(key, stored);
                let mut index_entries = IndexEntries::default();
                let mut expires = None;
                if !is_set_aside {
                    for entry in message.map(|m| index::entries(key, m)).unwrap_or_default() {
                        let there = self.view.get(Table::Index, &entry)?.is_some();
                        index_entries.needed += 1;
                        index_entries.present += u64::from(there);
                    }
                    expires = self.view.get(Table::Expiring, key)?;
                }
                visit(RecordAudit { is_set_aside, key, message, index_entries, expires })?;
            }
        }
        Ok(())
    }

    /// Calls `visit` with every image that was set aside, in order of keys.
    pub(crate) fn for_each_aside(
        &self,
        visit: &mut dyn FnMut(&Namespace, RecordRef<'_>) -> Result<()>,
    ) -> Result<()> {
        for record in self.view.range_from(Table::SetAside, b"")? {
            let (key, value) = record?;
            if let Some((namespace, Some(kind @ Kind::Image))) = keys::parse_key(key) {
                let prefix = keys::prefix(&namespace, kind).len();
                visit(&namespace, RecordRef { key, value, prefix, kind })?;
            }
        }
        Ok(())
    }

    /// Whether there is a record under a key, set aside or not.
    pub(crate) fn has_key(&self, key: &[u8]) -> Result<bool> {
        Ok(self.view.get(Table::Records, key)?.is_some()
            || self.view.get(Table::SetAside, key)?.is_some())
    }

    /// Whether a record of that name is set aside.
    pub(crate) fn is_aside(&self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        Ok(self.view.get(Table::SetAside, &keys::key(namespace, kind, name))?.is_some())
    }

    /// The numbers of entries.
    pub fn counts(&self) -> Result<Counts> {
        Ok(Counts {
            records: self.view.len(Table::Records)?,
            index: self.view.len(Table::Index)?,
            expiring: self.view.len(Table::Expiring)?,
            set_aside: self.view.len(Table::SetAside)?,
        })
    }
}
