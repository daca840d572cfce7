//! Changing records: what a job of the writing thread does.
//!
//! A change is made in memory, on top of the state that it reads; the writer puts it into the
//! journal or forgets it. Nothing here touches the disk, and nothing here fails but reading.

use crate::store::schema::keys;

use crate::model::{Error, Namespace, Result};
use crate::store::changelog::LogHead;
use crate::store::changelog::cause::Cause;
use crate::store::changelog::entry::{Changed, Old};
use crate::store::engine::log_buffer::{LogBuffer, LogMark};
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
    /// What is to be logged.
    log: LogBuffer,
}

/// What a batch of jobs leads to.
pub(crate) struct BatchChanges {
    /// All that is recent after it.
    pub recent: Overlay,
    /// What it has changed itself.
    pub writes: WriteBatch,
    /// Where the log ends, if the batch has logged something.
    pub log: Option<LogHead>,
}

/// What a change was like at some moment.
pub(crate) struct Savepoint {
    recent: Overlay,
    changes: usize,
    log: LogMark,
}

impl ReadState for Transaction<'_> {
    fn view(&self) -> &View<'_> {
        &self.view
    }
}

impl Records for Transaction<'_> {}

impl<'e> Transaction<'e> {
    pub(crate) fn new(view: View<'e>) -> Self {
        let batch = WriteBatch::new(journal::layout::MAX_ENTRY_BYTES);
        Self { view, batch, log: LogBuffer::default() }
    }

    /// A state to [roll back to](Self::rollback_to) if a later change is refused.
    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint {
            recent: self.view.overlay.clone(),
            changes: self.batch.savepoint(),
            log: self.log.savepoint(),
        }
    }

    pub(crate) fn rollback_to(&mut self, mark: Savepoint) {
        self.view.overlay = mark.recent;
        self.batch.rollback_to(mark.changes);
        self.log.rollback_to(mark.log);
    }

    /// Begins a job, whose changes have no cause yet. Gives the state to roll back to if it fails.
    pub(crate) fn begin_job(&mut self) -> Savepoint {
        self.log.begin_job();
        self.savepoint()
    }

    /// Ends a job: what it has changed of images is logged.
    pub(crate) fn end_job(&mut self) -> Result<()> {
        for (key, value) in self.log.end_job()? {
            self.set(Table::Log, &key, &value)?;
        }
        Ok(())
    }

    /// Says why the job makes the changes that follow, and for whom: the log has it.
    pub fn set_cause(&mut self, cause: Cause) {
        self.log.set_cause(cause);
    }

    /// The changes of this job are not logged: they put records back where no log knows of them.
    pub fn skip_log(&mut self) {
        self.log.skip();
    }

    /// What it leads to.
    pub(crate) fn into_changes(self) -> BatchChanges {
        let log = self.log.head();
        BatchChanges { recent: self.view.overlay, writes: self.batch, log }
    }

    /// The number in the log that the last change of an image gets which this job has made; 0 if it has made
    /// none, or the log is off.
    pub fn last_seq(&self) -> u64 {
        self.log.last_seq()
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
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.replace(&key, Some(message), image)?;
        match expires {
            Some(when) => self.set(Table::Expiring, &key, when.as_bytes()),
            None => self.unset(Table::Expiring, &key).map(drop),
        }
    }

    /// Removes the record of that name; says whether it was there.
    pub fn delete(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.delete_key(&keys::key(namespace, kind, name), image)
    }

    /// Removes the record of that name, but keeps it where a recovery finds it; says whether it
    /// was there.
    pub fn set_aside(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let key = keys::key(namespace, kind, name);
        if let Some(value) = self.view.get(Table::Records, &key)?.map(<[u8]>::to_vec) {
            self.set(Table::SetAside, &key, &value)?;
        }
        let image = (kind == Kind::Image).then_some((namespace, name));
        self.delete_key(&key, image)
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
        self.replace(&keys::namespace_key(namespace), Some(message), None).map(drop)
    }

    /// Removes a namespace and all its leases; says whether it was there. It must hold no images.
    pub fn delete_namespace(&mut self, namespace: &Namespace) -> Result<bool> {
        for key in scan::collect_keys(self, keys::prefix(namespace, Kind::Lease))? {
            self.delete_key(&key, None)?;
        }
        self.delete_key(&keys::namespace_key(namespace), None)
    }

    /// Makes changes again that a journal holds, on top of records that may be others than those the
    /// changes were made on: so the index follows from the records. Nothing is logged.
    pub fn replay(&mut self, changes: &WriteBatch) -> Result<()> {
        for (table, key, value) in changes.iter() {
            match (table, value.map(|value| (value, value::unseal(key, value)))) {
                (Table::Index | Table::Log, _) => {}
                (Table::Records, Some((_, Ok(message)))) => {
                    _ = self.replace(key, Some(message), None)?;
                }
                (Table::Records, None) => drop(self.delete_key(key, None)?),
                (_, Some((value, _))) => self.set(table, key, value)?,
                (_, None) => drop(self.unset(table, key)?),
            }
        }
        Ok(())
    }

    /// Removes a record; says whether it was there.
    fn delete_key(&mut self, key: &[u8], image: Option<(&Namespace, &str)>) -> Result<bool> {
        self.unset(Table::Expiring, key)?;
        self.replace(key, None, image)
    }

    /// Makes `new` the record under `key`, or removes the one that is there; says whether one was. The
    /// index follows, and so does the log if it is an `image`.
    fn replace(
        &mut self,
        key: &[u8],
        new: Option<&[u8]>,
        image: Option<(&Namespace, &str)>,
    ) -> Result<bool> {
        let old = match get(&self.view, key) {
            Ok(Some(message)) => Old::Known(message),
            Ok(None) => Old::Missing,
            Err(Fault::Damaged) => Old::Damaged,
            Err(Fault::Store(error)) => return Err(error),
        };
        let was_there = !matches!(old, Old::Missing);
        if let Some((namespace, name)) = image
            && (was_there || new.is_some())
        {
            self.log.add(&self.view, &Changed { namespace, name, old, new })?;
        }
        let entries = |message| index::entries(key, message);
        // Which entries a damaged record had cannot be told; they do no harm.
        let old = old.message().map(entries).unwrap_or_default();
        let entries = new.map(entries).unwrap_or_default();
        for gone in old.difference(&entries) {
            self.unset(Table::Index, gone)?;
        }
        for entry in entries.difference(&old) {
            self.set(Table::Index, entry, b"")?;
        }
        match new {
            Some(message) => self.set(Table::Records, key, &value::seal(key, message))?,
            None => drop(self.unset(Table::Records, key)?),
        }
        Ok(was_there)
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
