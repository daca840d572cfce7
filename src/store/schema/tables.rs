//! The databases of an open environment.

use heed::Database;
use heed::types::{Bytes, Str};

use super::table::Table;

/// The databases of an open environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// Facts about the environment.
    pub(crate) meta: Database<'static, Str, Bytes>,
    /// Everything containerd's bolt file would hold, by flattened path.
    pub(crate) records: Database<'static, Bytes, Bytes>,
    /// The images that have a digest or a label.
    pub(crate) index: Database<'static, Bytes, Bytes>,
    /// The time at which a record may be collected, by the key of the record.
    pub(crate) expiring: Database<'static, Bytes, Bytes>,
    /// Records that were set aside instead of deleted.
    pub(crate) aside: Database<'static, Bytes, Bytes>,
    /// The changes of images, by their number.
    pub(crate) log: Database<'static, Bytes, Bytes>,
}

type Bare = Database<'static, Bytes, Bytes>;

impl From<(Database<'static, Str, Bytes>, Bare, Bare, Bare, Bare, Bare)> for Tables {
    fn from(all: (Database<'static, Str, Bytes>, Bare, Bare, Bare, Bare, Bare)) -> Self {
        let (meta, records, index, expiring, aside, log) = all;
        Self { meta, records, index, expiring, aside, log }
    }
}

impl Tables {
    /// All databases, by name.
    pub(crate) fn all(&self) -> [(&'static str, Database<'static, Bytes, Bytes>); 6] {
        [
            ("meta", self.meta.remap_types()),
            ("records", self.records),
            ("index", self.index),
            ("expiring", self.expiring),
            ("aside", self.aside),
            ("log", self.log),
        ]
    }

    /// The database of a table.
    pub(crate) fn get(&self, table: Table) -> Database<'static, Bytes, Bytes> {
        match table {
            Table::Records => self.records,
            Table::Index => self.index,
            Table::Expiring => self.expiring,
            Table::SetAside => self.aside,
            Table::Log => self.log,
        }
    }
}
