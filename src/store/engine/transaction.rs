//! A transaction: a job of the writer thread reads and changes records in it.
//!
//! A transaction keeps its writes in memory, on top of the state that it reads. The writer thread
//! commits the writes or drops them. A transaction never writes to the disk; only its reads can fail.

use crate::store::schema::keys;
use std::collections::BTreeSet;

use crate::model::{Error, Namespace, Result};
use crate::store::journal;
use crate::store::journal::entry::WriteBatch;
use crate::store::journal::overlay::Overlay;
use crate::store::read::records::Records;
use crate::store::read::scan;
use crate::store::read::state::{Fault, ReadState, get};
use crate::store::read::view::View;
use crate::store::schema::keys::Kind;
use crate::store::schema::table::Table;
use crate::store::schema::{index, value};

/// The longest key of LMDB, in bytes.
const MAX_KEY: usize = 511;

/// A view of the store, and the writes on top of it.
pub struct Transaction<'e> {
    view: View<'e>,
    /// The writes that the overlay of `view` includes, for the journal.
    batch: WriteBatch,
}

/// The writes of a transaction at one moment.
pub(crate) struct Savepoint {
    overlay: Overlay,
    changes: usize,
}

impl ReadState for Transaction<'_> {
    fn view(&self) -> &View<'_> {
        &self.view
    }
}

impl Records for Transaction<'_> {}

impl<'e> Transaction<'e> {
    pub(crate) fn new(view: View<'e>) -> Self {
        Self { view, batch: WriteBatch::new(journal::layout::MAX_ENTRY_BYTES) }
    }

    /// A savepoint to [roll back to](Self::rollback_to).
    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint { overlay: self.view.overlay.clone(), changes: self.batch.savepoint() }
    }

    pub(crate) fn rollback_to(&mut self, mark: Savepoint) {
        self.view.overlay = mark.overlay;
        self.batch.rollback_to(mark.changes);
    }

    /// The overlay after this transaction, and the transaction's own writes.
    pub(crate) fn into_parts(self) -> (Overlay, WriteBatch) {
        (self.view.overlay, self.batch)
    }

    /// Writes an encoded record under `name` and replaces an existing one. `expires` is the value of the
    /// record's label `containerd.io/gc.expire`.
    pub fn put(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
        message: &[u8],
        expires: Option<&str>,
    ) -> Result<()> {
        let key = keys::key(namespace, kind, name);
        self.put_value(&key, message)?;
        match expires {
            Some(when) => self.set(Table::Expiring, &key, when.as_bytes()),
            None => self.unset(Table::Expiring, &key).map(drop),
        }
    }

    /// Removes the record `name`; returns whether it existed.
    pub fn delete(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        self.delete_key(&keys::key(namespace, kind, name))
    }

    /// Moves the record `name` to the database of set-aside records, where a recovery finds it; returns
    /// whether it existed.
    pub fn set_aside(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let key = keys::key(namespace, kind, name);
        if let Some(value) = self.view.get(Table::Records, &key)?.map(<[u8]>::to_vec) {
            self.set(Table::SetAside, &key, &value)?;
        }
        self.delete_key(&key)
    }

    /// Writes a record to the database of set-aside records and replaces an existing one.
    pub fn put_aside(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
        message: &[u8],
    ) -> Result<()> {
        let key = keys::key(namespace, kind, name);
        self.set(Table::SetAside, &key, &value::seal(&key, message))
    }

    /// Writes the encoded `Namespace` and replaces an existing one.
    pub fn put_namespace(&mut self, namespace: &Namespace, message: &[u8]) -> Result<()> {
        self.put_value(&keys::namespace_key(namespace), message)
    }

    /// Removes a namespace and all its leases; returns whether it existed. It must hold no images.
    pub fn delete_namespace(&mut self, namespace: &Namespace) -> Result<bool> {
        for key in scan::collect_keys(self, keys::prefix(namespace, Kind::Lease))? {
            self.delete_key(&key)?;
        }
        self.delete_key(&keys::namespace_key(namespace))
    }

    /// Repeats the writes of a journal on top of records that may differ from the original ones. So the
    /// index entries are computed from the records.
    pub fn replay(&mut self, changes: &WriteBatch) -> Result<()> {
        for (table, key, value) in changes.iter() {
            match (table, value.map(|value| (value, value::unseal(key, value)))) {
                (Table::Index, _) => {}
                (Table::Records, Some((_, Ok(message)))) => self.put_value(key, message)?,
                (Table::Records, None) => drop(self.delete_key(key)?),
                (_, Some((value, _))) => self.set(table, key, value)?,
                (_, None) => drop(self.unset(table, key)?),
            }
        }
        Ok(())
    }

    fn put_value(&mut self, key: &[u8], message: &[u8]) -> Result<()> {
        self.reindex(key, index::entries(key, message))?;
        self.set(Table::Records, key, &value::seal(key, message))
    }

    fn delete_key(&mut self, key: &[u8]) -> Result<bool> {
        self.reindex(key, BTreeSet::new())?;
        self.unset(Table::Expiring, key)?;
        self.unset(Table::Records, key)
    }

    /// Replaces the index entries of the stored record under `key` by `new`. The caller changes the record
    /// after this call.
    fn reindex(&mut self, key: &[u8], new: BTreeSet<Vec<u8>>) -> Result<()> {
        let old = match get(self, key) {
            Ok(old) => old.map(|message| index::entries(key, message)).unwrap_or_default(),
            // The old entries of a damaged record cannot be computed and remain. They are harmless,
            // because every candidate is checked against the filter.
            Err(Fault::Damaged) => BTreeSet::new(),
            Err(Fault::Store(error)) => return Err(error),
        };
        for gone in old.difference(&new) {
            self.unset(Table::Index, gone)?;
        }
        for entry in new.difference(&old) {
            self.set(Table::Index, entry, b"")?;
        }
        Ok(())
    }

    /// Sets a key. All writes go through this function and [`unset`](Self::unset), so that the journal has
    /// all of them.
    pub(crate) fn set(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        // LMDB refuses such a key, so that every later checkpoint would fail.
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::Internal(format!("a key of {} bytes", key.len())));
        }
        let op = (table, key, Some(value));
        self.batch.push(op);
        self.view.overlay.apply(op);
        Ok(())
    }

    fn unset(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        let there = self.view.get(table, key)?.is_some();
        if there {
            self.batch.push((table, key, None));
            self.view.overlay.apply((table, key, None));
        }
        Ok(there)
    }
}
