//! A transaction: a job of the writer thread reads and changes records in it.
//!
//! A transaction keeps its writes in memory, on top of the state that it reads. The writer thread
//! commits the writes or drops them. A transaction never writes to the disk; only its reads can fail.

use lmdb_verify::layout::MAX_KEY;

use crate::model::{Error, Namespace, Result};
use crate::store::changelog::LogHead;
use crate::store::changelog::cause::Cause;
use crate::store::changelog::entry::{Changed, Old};
use crate::store::engine::log_buffer::{LogBuffer, LogSavepoint};
use crate::store::engine::version::KnownLog;
use crate::store::journal;
use crate::store::journal::entry::WriteBatch;
use crate::store::journal::overlay::Overlay;
use crate::store::read::records::Records;
use crate::store::read::scan;
use crate::store::read::state::{ReadState, RecordFault, get};
use crate::store::read::view::View;
use crate::store::schema::keys::{self, Kind};
use crate::store::schema::table::Table;
use crate::store::schema::{index, value};

/// The most records that are set aside. A record is set aside when a containerd lost it with its
/// database. That is rare, but a containerd may lose other names each time.
pub(crate) const MAX_SET_ASIDE: u64 = 1 << 17;

/// A view of the store, and the writes on top of it.
pub struct Transaction<'e> {
    view: View<'e>,
    /// The writes that the overlay of `view` includes, for the journal.
    batch: WriteBatch,
    log: LogBuffer,
}

/// The writes of a batch of jobs.
pub(crate) struct BatchChanges {
    /// The overlay after them.
    pub overlay: Overlay,
    /// The writes themselves.
    pub writes: WriteBatch,
    /// The end of the log after them; `None` while it is off.
    pub log: Option<LogHead>,
}

/// The writes of a transaction at one moment.
pub(crate) struct Savepoint {
    overlay: Overlay,
    changes: usize,
    log: LogSavepoint,
}

impl ReadState for Transaction<'_> {
    fn view(&self) -> &View<'_> {
        &self.view
    }
}

impl Records for Transaction<'_> {}

impl<'e> Transaction<'e> {
    pub(crate) fn new(view: View<'e>, log: KnownLog) -> Self {
        let batch = WriteBatch::new(journal::layout::MAX_ENTRY_BYTES);
        Self { view, batch, log: LogBuffer::new(log) }
    }

    /// A savepoint to [roll back to](Self::rollback_to).
    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint {
            overlay: self.view.overlay.clone(),
            changes: self.batch.savepoint(),
            log: self.log.savepoint(),
        }
    }

    pub(crate) fn rollback_to(&mut self, savepoint: Savepoint) {
        self.view.overlay = savepoint.overlay;
        self.batch.rollback_to(savepoint.changes);
        self.log.rollback_to(savepoint.log);
    }

    /// Begins a job. Returns a savepoint to roll back to if the job fails.
    pub(crate) fn begin_job(&mut self) -> Savepoint {
        self.log.begin_job();
        self.savepoint()
    }

    /// Ends a job: its changes of images become entries of the log.
    pub(crate) fn end_job(&mut self) -> Result<()> {
        for (key, value) in self.log.end_job()? {
            self.set(Table::Log, &key, &value)?;
        }
        Ok(())
    }

    /// Sets the cause of the job's changes, which the entries of the log record.
    pub(crate) fn set_cause(&mut self, cause: Cause) {
        self.log.set_cause(cause);
    }

    /// Keeps the changes of this job out of the log. For records that are put into a store before its log
    /// begins.
    pub fn skip_log(&mut self) {
        self.log.skip();
    }

    /// The writes of the jobs.
    pub(crate) fn into_changes(self) -> BatchChanges {
        let log = self.log.head();
        BatchChanges { overlay: self.view.overlay, writes: self.batch, log }
    }

    /// The number that the log gives to this job's last change of an image; 0 if there is none, or if the log is
    /// off.
    pub(crate) fn last_seq(&self) -> u64 {
        self.log.last_seq()
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
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.replace(&key, Some(message), image)?;
        match expires {
            Some(when) => self.set(Table::Expiring, &key, when.as_bytes()),
            None => self.unset(Table::Expiring, &key).map(drop),
        }
    }

    /// Removes the record `name`; returns whether it existed.
    pub fn delete(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.delete_key(&keys::key(namespace, kind, name), image)
    }

    /// Moves the record `name` to the database of set-aside records, where a recovery finds it; returns
    /// whether it existed.
    pub fn set_aside(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let key = keys::key(namespace, kind, name);
        if let Some(value) = self.view.get(Table::Records, &key)?.map(<[u8]>::to_vec) {
            self.set(Table::SetAside, &key, &value)?;
        }
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.delete_key(&key, image)
    }

    /// Removes the copy of a record that was set aside; returns whether it existed.
    pub(crate) fn forget_aside(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
    ) -> Result<bool> {
        self.unset(Table::SetAside, &keys::key(namespace, kind, name))
    }

    /// Whether the record `name` may be set aside: the database keeps at most [`MAX_SET_ASIDE`].
    pub(crate) fn can_set_aside(
        &self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
    ) -> Result<bool> {
        let is_aside = || self.view.get(Table::SetAside, &keys::key(namespace, kind, name));
        Ok(self.view.len(Table::SetAside)? < MAX_SET_ASIDE || is_aside()?.is_some())
    }

    /// Writes a record to the database of set-aside records and replaces an existing one.
    pub(crate) fn put_aside(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
        message: &[u8],
    ) -> Result<()> {
        let key = keys::key(namespace, kind, name);
        self.set(Table::SetAside, &key, &value::encode(&key, message))
    }

    /// Writes the encoded `Namespace` and replaces an existing one.
    pub fn put_namespace(&mut self, namespace: &Namespace, message: &[u8]) -> Result<()> {
        self.replace(&keys::namespace_key(namespace), Some(message), None).map(drop)
    }

    /// Removes a namespace and all its leases; returns whether it existed. It must hold no images.
    pub fn delete_namespace(&mut self, namespace: &Namespace) -> Result<bool> {
        for key in scan::collect_keys(self, keys::prefix(namespace, Kind::Lease))? {
            self.delete_key(&key, None)?;
        }
        self.delete_key(&keys::namespace_key(namespace), None)
    }

    /// Repeats the writes of a journal on top of records that may differ from the original ones. So the
    /// index entries are computed from the records. The log gets no entries.
    pub fn replay(&mut self, changes: &WriteBatch) -> Result<()> {
        for (table, key, value) in changes.iter() {
            match (table, value.map(|value| (value, value::decode(key, value)))) {
                (Table::Index | Table::Log, _) => {}
                (Table::Records, Some((_, Ok(message)))) => {
                    _ = self.replace(key, Some(message), None)?;
                }
                (Table::Records, None) => _ = self.delete_key(key, None)?,
                (_, Some((value, _))) => self.set(table, key, value)?,
                (_, None) => drop(self.unset(table, key)?),
            }
        }
        Ok(())
    }

    /// Removes a record; returns whether it existed.
    fn delete_key(&mut self, key: &[u8], image: Option<(&Namespace, &str)>) -> Result<bool> {
        self.unset(Table::Expiring, key)?;
        self.replace(key, None, image)
    }

    /// Replaces the stored record under `key` by `new`, and its index entries too. The change of an `image`
    /// is logged. Returns whether there was a record.
    fn replace(
        &mut self,
        key: &[u8],
        new: Option<&[u8]>,
        image: Option<(&Namespace, &str)>,
    ) -> Result<bool> {
        let old = match get(&self.view, key) {
            Ok(Some(message)) => Old::Known(message),
            Ok(None) => Old::Missing,
            Err(RecordFault::Damaged) => Old::Damaged,
            Err(RecordFault::Store(error)) => return Err(error),
        };
        let existed = !matches!(old, Old::Missing);
        if let Some((namespace, name)) = image
            && (existed || new.is_some())
        {
            self.log.add(&self.view, &Changed { namespace, name, old, new })?;
        }
        let entries = |message| index::entries(key, message);
        // The old entries of a damaged record cannot be computed and remain. They are harmless, because
        // every candidate is checked against the filter.
        let old = old.message().map(entries).unwrap_or_default();
        let entries = new.map(entries).unwrap_or_default();
        for gone in old.difference(&entries) {
            self.unset(Table::Index, gone)?;
        }
        for entry in entries.difference(&old) {
            self.set(Table::Index, entry, b"")?;
        }
        match new {
            Some(message) => self.set(Table::Records, key, &value::encode(key, message))?,
            None => _ = self.unset(Table::Records, key)?,
        }
        Ok(existed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn records_that_are_set_aside_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ns = Namespace::parse("n").unwrap();
        let work = move |change: &mut Transaction<'_>| {
            for number in 1..MAX_SET_ASIDE {
                change.put_aside(&ns, Kind::Image, &number.to_string(), b"")?;
            }
            assert!(change.can_set_aside(&ns, Kind::Image, "new")?);
            change.put_aside(&ns, Kind::Image, "new", b"")?;
            assert!(!change.can_set_aside(&ns, Kind::Image, "newer")?);
            // A record takes the place of the one of its name.
            assert!(change.can_set_aside(&ns, Kind::Image, "7")?);
            Ok(())
        };
        store.writer().write_blocking(work).unwrap();
    }
}
