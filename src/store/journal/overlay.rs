//! The overlay: the writes since the last checkpoint, which are in the journal and not yet in LMDB's
//! file.
//!
//! The overlay has a persistent map for each database. A clone costs a few pointers and never
//! changes, so each snapshot has its own while the writer thread goes on. A removed key has no value.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use crate::store::journal::entry::WriteBatch;
use crate::store::schema::table::{Op, Table};

type Map = RedBlackTreeMapSync<Arc<[u8]>, Option<Arc<[u8]>>>;

/// Keys in order with their values; a removed key has `None`.
pub(crate) type OverlayRange<'r> = Box<dyn Iterator<Item = (&'r [u8], Option<&'r [u8]>)> + 'r>;

/// The range of all keys from this key on.
struct FromKey(Box<[u8]>);

impl RangeBounds<[u8]> for FromKey {
    fn start_bound(&self) -> Bound<&[u8]> {
        Bound::Included(&self.0)
    }
    fn end_bound(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }
}

/// The writes since the last checkpoint, for all databases.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    records: Map,
    index: Map,
    expiring: Map,
    aside: Map,
    log: Map,
    /// The number of changes so far.
    changes: u64,
}

impl Overlay {
    /// The overlay after applying the batches in order.
    pub fn replay<'c>(batches: impl IntoIterator<Item = &'c WriteBatch>) -> Self {
        let mut overlay = Self::default();
        for op in batches.into_iter().flat_map(WriteBatch::iter) {
            overlay.apply(op);
        }
        overlay
    }

    /// Applies a write.
    pub fn apply(&mut self, (table, key, value): Op<'_>) {
        let map = match table {
            Table::Records => &mut self.records,
            Table::Index => &mut self.index,
            Table::Expiring => &mut self.expiring,
            Table::SetAside => &mut self.aside,
            Table::Log => &mut self.log,
        };
        map.insert_mut(key.into(), value.map(Into::into));
        self.changes += 1;
    }

    /// The number of changes so far, which distinguishes states with the same base.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The write of a key: `None` if there is none, `Some(None)` if the key was removed, or its value.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        let map = self.map(table);
        if map.is_empty() { None } else { map.get(key).map(Option::as_deref) }
    }

    /// The writes of all keys from `key` on, in order; `None` if the database has no writes.
    pub(crate) fn range_from(&self, table: Table, key: &[u8]) -> Option<OverlayRange<'_>> {
        let map = self.map(table);
        let writes =
            || map.range(FromKey(key.into())).map(|(key, value)| (&**key, value.as_deref()));
        (!map.is_empty()).then(|| Box::new(writes()) as OverlayRange<'_>)
    }

    /// All writes, database by database.
    pub fn writes(&self) -> impl Iterator<Item = Op<'_>> {
        Table::ALL.into_iter().flat_map(|table| {
            self.map(table).iter().map(move |(key, value)| (table, &**key, value.as_deref()))
        })
    }

    /// The newest entry of the log.
    pub(crate) fn last_log_entry(&self) -> Option<(&[u8], &[u8])> {
        let mut entries = self.log.iter().rev();
        entries.find_map(|(key, value)| Some((&**key, value.as_deref()?)))
    }

    /// The number of written keys of a database.
    pub fn count(&self, table: Table) -> usize {
        self.map(table).size()
    }

    /// The number of written keys of all databases.
    pub fn len(&self) -> usize {
        Table::ALL.into_iter().map(|table| self.count(table)).sum()
    }

    /// The number of written keys whose places in LMDB's file have nothing to do with each other: all but those
    /// of the log.
    pub(crate) fn scattered(&self) -> usize {
        self.len().saturating_sub(self.count(Table::Log))
    }

    /// Whether there are no writes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn map(&self, table: Table) -> &Map {
        match table {
            Table::Records => &self.records,
            Table::Index => &self.index,
            Table::Expiring => &self.expiring,
            Table::SetAside => &self.aside,
            Table::Log => &self.log,
        }
    }
}
