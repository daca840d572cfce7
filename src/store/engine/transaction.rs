//! Changing records: what a job of the writing thread does.
//!
//! A change is made in memory, on top of the state that it reads; the writer puts it into the
//! journal or forgets it. Nothing here touches the disk, and nothing here fails but reading.

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

/// Bytes that LMDB takes as a key.
const MAX_KEY: usize = 511;

/// A state, and what is changed in it.
pub struct Transaction<'e> {
    view: View<'e>,
    /// The same as in `view`, for the journal.
    batch: WriteBatch,
}

/// What a change was like at some moment.
pub(crate) struct Savepoint {
    recent: Overlay,
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

    /// A state to [roll back to](Self::rollback_to) if a later change is refused.
    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint { recent: self.view.overlay.clone(), changes: self.batch.savepoint() }
    }

    pub(crate) fn rollback_to(&mut self, mark: Savepoint) {
        self.view.overlay = mark.recent;
        self.batch.rollback_to(mark.changes);
    }

    /// All that is recent after it, and what it has changed itself.
    pub(crate) fn into_parts(self) -> (Overlay, WriteBatch) {
        (self.view.overlay, self.batch)
    }

    /// Writes an encoded record under that name, in place of one that is there. `expires` is the
    /// value of its label `containerd.io/gc.expire`, if it has one.
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

    /// Removes the record of that name; says whether it was there.
    pub fn delete(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        self.delete_key(&keys::key(namespace, kind, name))
    }

    /// Removes the record of that name, but keeps it where a recovery finds it; says whether it
    /// was there.
    pub fn set_aside(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let key = keys::key(namespace, kind, name);
        if let Some(value) = self.view.get(Table::Records, &key)?.map(<[u8]>::to_vec) {
            self.set(Table::SetAside, &key, &value)?;
        }
        self.delete_key(&key)
    }

    /// Writes a record as one that was set aside, in place of one that is there.
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

    /// Writes the encoded `Namespace`, in place of one that is there.
    pub fn put_namespace(&mut self, namespace: &Namespace, message: &[u8]) -> Result<()> {
        self.put_value(&keys::namespace_key(namespace), message)
    }

    /// Removes a namespace and all its leases; says whether it was there. It must hold no images.
    pub fn delete_namespace(&mut self, namespace: &Namespace) -> Result<bool> {
        for key in scan::collect_keys(self, keys::prefix(namespace, Kind::Lease))? {
            self.delete_key(&key)?;
        }
        self.delete_key(&keys::namespace_key(namespace))
    }

    /// Makes changes again that a journal holds, on top of records that may be others than those the
    /// changes were made on: so the index follows from the records.
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

    /// Makes `new` the index's entries for the record under `key`, in place of those of the record
    /// that is there. Call it before that one goes.
    fn reindex(&mut self, key: &[u8], new: BTreeSet<Vec<u8>>) -> Result<()> {
        let old = match get(self, key) {
            Ok(old) => old.map(|message| index::entries(key, message)).unwrap_or_default(),
            // Which those of a damaged record were cannot be told; they do no harm.
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

    /// Every change of a database is made by this and the next, so that the journal has them all.
    pub(crate) fn set(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        // A checkpoint would fail on it, that is, all would.
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
