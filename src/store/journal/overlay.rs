//! What was changed since the last checkpoint: it is in the journal, but not yet in LMDB's file.
//!
//! A persistent map for each database: a copy costs nothing and keeps its state, so that each
//! snapshot has one of its own while the writing thread goes on. A key has its value, or nothing
//! where it was removed.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use crate::store::journal::entry::WriteBatch;
use crate::store::schema::table::{Op, Table};

type Map = RedBlackTreeMapSync<Arc<[u8]>, Option<Arc<[u8]>>>;

/// Keys in order, with their values; with nothing where they were removed.
pub type OverlayRange<'r> = Box<dyn Iterator<Item = (&'r [u8], Option<&'r [u8]>)> + 'r>;

/// The keys from one on.
struct FromKey(Box<[u8]>);

impl RangeBounds<[u8]> for FromKey {
    fn start_bound(&self) -> Bound<&[u8]> {
        Bound::Included(&self.0)
    }
    fn end_bound(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }
}

/// What is recent, of all databases.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    records: Map,
    index: Map,
    expiring: Map,
    aside: Map,
    /// Changes that were made to it.
    changes: u64,
}

impl Overlay {
    /// What changes made in order, from nothing on.
    pub fn replay<'c>(all: impl IntoIterator<Item = &'c WriteBatch>) -> Self {
        let mut recent = Self::default();
        for op in all.into_iter().flat_map(WriteBatch::iter) {
            recent.apply(op);
        }
        recent
    }

    /// Makes a change.
    pub fn apply(&mut self, (table, key, value): Op<'_>) {
        let map = match table {
            Table::Records => &mut self.records,
            Table::Index => &mut self.index,
            Table::Expiring => &mut self.expiring,
            Table::SetAside => &mut self.aside,
        };
        map.insert_mut(key.into(), value.map(Into::into));
        self.changes += 1;
    }

    /// The number of changes that were made to it. It tells states with the same base apart.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What is known of a key: nothing, that it was removed, or its value.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        let map = self.map(table);
        if map.is_empty() { None } else { map.get(key).map(Option::as_deref) }
    }

    /// All that is known of keys from one on, in order; `None` when that is nothing at all.
    pub fn range_from(&self, table: Table, key: &[u8]) -> Option<OverlayRange<'_>> {
        let map = self.map(table);
        let known =
            || map.range(FromKey(key.into())).map(|(key, value)| (&**key, value.as_deref()));
        (!map.is_empty()).then(|| Box::new(known()) as OverlayRange<'_>)
    }

    /// Everything, to be done again.
    pub fn writes(&self) -> impl Iterator<Item = Op<'_>> {
        Table::ALL.into_iter().flat_map(|table| {
            self.map(table).iter().map(move |(key, value)| (table, &**key, value.as_deref()))
        })
    }

    /// Of how many keys it knows.
    pub fn count(&self, table: Table) -> usize {
        self.map(table).size()
    }

    /// Of how many keys of all databases it knows.
    pub fn len(&self) -> usize {
        Table::ALL.into_iter().map(|table| self.count(table)).sum()
    }

    /// Whether nothing is recent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn map(&self, table: Table) -> &Map {
        match table {
            Table::Records => &self.records,
            Table::Index => &self.index,
            Table::Expiring => &self.expiring,
            Table::SetAside => &self.aside,
        }
    }
}
