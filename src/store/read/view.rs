//! The merged view of the databases: LMDB's state with the overlay on top of it.
//!
//! All reads go through a view, so no other module has to know both places.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heed::types::Bytes;
use heed::{RoRange, RoTxn, RwTxn, WithoutTls};

use crate::model::{Error, Result};
use crate::store::error::lmdb_error;
use crate::store::journal::overlay::{Overlay, OverlayRange};
use crate::store::read::snapshot_limit::SnapshotLimit;
use crate::store::schema::table::Table;
use crate::store::schema::tables::Tables;

/// A stored key and its value.
pub(crate) type Pair<'v> = (&'v [u8], &'v [u8]);

/// A transaction that sees LMDB's last state.
pub(crate) enum Txn<'e> {
    /// The transaction of a reader.
    Reader(RoTxn<'e, WithoutTls>),
    /// The transaction of the writer thread. It needs no reader slot, and no other transaction writes while
    /// it is open.
    Writer(RwTxn<'e>),
}

/// Names a state of the store within one run of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    base_txn: u64,
    changes: u64,
}

/// A consistent view of the store.
pub struct View<'e> {
    txn: Txn<'e>,
    tables: &'e Tables,
    pub(crate) overlay: Overlay,
    /// Set when the environment must be closed. Closing waits until this view is dropped.
    closing: Option<Arc<AtomicBool>>,
    /// The limit of a snapshot that checkpoints may run beside.
    limit: Option<SnapshotLimit>,
}

impl<'e> View<'e> {
    pub(crate) fn new(txn: Txn<'e>, tables: &'e Tables, overlay: Overlay) -> Self {
        Self { txn, tables, overlay, closing: None, limit: None }
    }

    /// Makes iterators return an error after `closing` is set.
    pub(crate) fn interrupted_by(self, closing: Arc<AtomicBool>) -> Self {
        Self { closing: Some(closing), ..self }
    }

    /// Sets the limit after which the view must be dropped.
    pub(crate) fn with_limit(self, limit: SnapshotLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Returns an error if the view must be dropped.
    pub(crate) fn check_held(&self) -> Result<()> {
        self.limit().map_or(Ok(()), SnapshotLimit::check)
    }

    /// The limit of the view, if it has one.
    pub(crate) fn limit(&self) -> Option<&SnapshotLimit> {
        self.limit.as_ref()
    }

    /// The value of a key.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>> {
        match self.overlay.get(table, key) {
            Some(value) => Ok(value),
            // LMDB has no empty keys, and takes none.
            None if key.is_empty() => Ok(None),
            None => self.tables.get(table).get(self.txn(), key).map_err(read_error),
        }
    }

    /// The first key that is not less than `key`, with its value.
    pub(crate) fn seek(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>> {
        if key.is_empty() || self.overlay.count(table) > 0 {
            return self.range_from(table, key)?.next().transpose();
        }
        self.tables.get(table).get_greater_than_or_equal_to(self.txn(), key).map_err(read_error)
    }

    /// All keys from `key` on, in order.
    pub(crate) fn range_from(&self, table: Table, key: &[u8]) -> Result<Range<'_>> {
        let from = if key.is_empty() { Bound::Unbounded } else { Bound::Included(key) };
        let bounds = (from, Bound::Unbounded);
        Ok(Range {
            base: self.tables.get(table).range(self.txn(), &bounds).map_err(read_error)?,
            peeked_base: None,
            overlay: self.overlay.range_from(table, key).map(Iterator::peekable),
            closing: self.closing.as_deref(),
        })
    }

    /// All keys with that prefix, in order.
    pub(crate) fn prefix<'v>(&'v self, table: Table, prefix: Vec<u8>) -> Result<Prefixed<'v>> {
        Ok(Prefixed { range: self.range_from(table, &prefix)?, prefix })
    }

    /// The keys that begin with `prefix`, in order, from `from` on.
    pub(crate) fn prefix_from<'v>(
        &'v self,
        table: Table,
        prefix: Vec<u8>,
        from: &[u8],
    ) -> Result<Prefixed<'v>> {
        Ok(Prefixed { range: self.range_from(table, prefix.as_slice().max(from))?, prefix })
    }

    /// The number of keys.
    pub(crate) fn len(&self, table: Table) -> Result<u64> {
        let stored = self.tables.get(table);
        let mut count = stored.len(self.txn()).map_err(read_error)?;
        for (key, value) in self.overlay.range_from(table, b"").into_iter().flatten() {
            match (stored.get(self.txn(), key).map_err(read_error)?, value) {
                (None, Some(_)) => count = count.saturating_add(1),
                (Some(_), None) => count = count.saturating_sub(1),
                _ => {}
            }
        }
        Ok(count)
    }

    /// An upper bound of the number of keys: counts every write in the overlay as a new key.
    pub(crate) fn approximate_len(&self, table: Table) -> Result<u64> {
        let stored = self.tables.get(table).len(self.txn()).map_err(read_error)?;
        Ok(stored.saturating_add(self.overlay.count(table) as u64))
    }

    /// The state that this is. Equal states may have different revisions, but two states with one
    /// revision are equal.
    pub(crate) fn revision(&self) -> Revision {
        Revision { base_txn: self.txn().id() as u64, changes: self.overlay.changes() }
    }

    /// The LMDB transaction under the overlay, and its databases.
    pub(crate) fn base(&self) -> (&RoTxn<'_>, &'e Tables) {
        (self.txn(), self.tables)
    }

    fn txn(&self) -> &RoTxn<'_> {
        match &self.txn {
            Txn::Reader(txn) => txn,
            Txn::Writer(txn) => txn,
        }
    }
}

fn read_error(e: heed::Error) -> Error {
    lmdb_error("reading the store", &e)
}

/// The error of a long read when the environment must be reopened.
fn interrupted() -> Error {
    Error::Unavailable(
        "a write to the disk failed and the store is opened again, which ends reads under way; try \
         again"
            .into(),
    )
}

/// Keys in order, with their values.
pub(crate) struct Range<'v> {
    base: RoRange<'v, Bytes, Bytes>,
    /// LMDB's next pair, if the overlay's next key comes before it.
    peeked_base: Option<Pair<'v>>,
    /// `None` when the overlay has no further key.
    overlay: Option<Peekable<OverlayRange<'v>>>,
    closing: Option<&'v AtomicBool>,
}

impl<'v> Range<'v> {
    fn next_base(&mut self) -> Result<Option<Pair<'v>>> {
        match self.peeked_base.take() {
            Some(pair) => Ok(Some(pair)),
            None => self.base.next().transpose().map_err(read_error),
        }
    }

    fn merged(&mut self) -> Result<Option<Pair<'v>>> {
        loop {
            let stored = self.next_base()?;
            let Some(overlay) = &mut self.overlay else { return Ok(stored) };
            let Some(&(key, value)) = overlay.peek() else {
                self.overlay = None;
                return Ok(stored);
            };
            match stored {
                Some(pair) if pair.0 < key => return Ok(Some(pair)),
                // The overlay replaces the stored pair.
                Some(pair) if pair.0 == key => {}
                other => self.peeked_base = other,
            }
            overlay.next();
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
    }
}

impl<'v> Iterator for Range<'v> {
    type Item = Result<Pair<'v>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.closing.is_some_and(|closing| closing.load(Ordering::Relaxed)) {
            return Some(Err(interrupted()));
        }
        if self.overlay.is_none() && self.peeked_base.is_none() {
            return self.base.next().map(|pair| pair.map_err(read_error));
        }
        self.merged().transpose()
    }
}

/// Keys in order that begin alike.
pub(crate) struct Prefixed<'v> {
    range: Range<'v>,
    prefix: Vec<u8>,
}

impl<'v> Iterator for Prefixed<'v> {
    type Item = Result<Pair<'v>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.range.next()?;
        match &next {
            Ok((key, _)) if !key.starts_with(&self.prefix) => None,
            _ => Some(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;
    use crate::store::schema::checkpoint_id::LastCheckpoint;

    /// Few, so that changes meet.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..3, 1..4)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>, u8),
        Remove(Vec<u8>),
        Checkpoint,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            2 => key().prop_map(Step::Remove),
            1 => Just(Step::Checkpoint),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn each_key_has_its_last_value_in_the_overlay_and_in_the_file(
            steps in prop::collection::vec(step(), 0..40),
            asked in prop::collection::vec(key(), 8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let opened = store.environment.acquire().unwrap();
            let (table, mut overlay, mut expected) = (Table::Index, Overlay::default(), BTreeMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put(key, value) => {
                        overlay.apply((table, &key, Some(&[value])));
                        expected.insert(key, vec![value]);
                    }
                    Step::Remove(key) => {
                        overlay.apply((table, &key, None));
                        expected.remove(&key);
                    }
                    Step::Checkpoint => {
                        let written = std::mem::take(&mut overlay);
                        crate::store::engine::committer::write_checkpoint(&opened.env, &opened.tables, &written, LastCheckpoint { id: number as u64, journal: None }, crate::store::changelog::keep::LogStep::None)
                            .unwrap();
                    }
                }
            }
            let view = View::new(Txn::Reader(opened.env.read_txn().unwrap()), &opened.tables, overlay);
            let owned = |(key, value): Pair<'_>| (key.to_vec(), value.to_vec());
            let all: Vec<_> = expected.clone().into_iter().collect();
            let range = |key: &[u8]| -> Vec<_> {
                view.range_from(table, key).unwrap().map(|pair| owned(pair.unwrap())).collect()
            };
            prop_assert_eq!(view.len(table).unwrap(), all.len() as u64);
            prop_assert_eq!(range(b""), all.clone());
            for key in &asked {
                let behind: Vec<_> = all.iter().filter(|(k, _)| k >= key).cloned().collect();
                let begins: Vec<_> =
                    all.iter().filter(|(k, _)| k.starts_with(key)).cloned().collect();
                let prefixed = view.prefix(table, key.clone()).unwrap();
                let first = view.seek(table, key).unwrap().map(owned);
                prop_assert_eq!(prefixed.map(|p| owned(p.unwrap())).collect::<Vec<_>>(), begins);
                prop_assert_eq!(first, behind.first().cloned());
                prop_assert_eq!(range(key), behind);
                prop_assert_eq!(view.get(table, key).unwrap(), expected.get(key).map(Vec::as_slice));
            }
        }
    }
}
