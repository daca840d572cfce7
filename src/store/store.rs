//! A store that this process owns: reads, and writes through the writer thread.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::changelog::LogHead;
use super::dir::disk_space;
use super::dir::root::StoreDir;
use super::engine::committer;
use super::engine::environment::Environment;
use super::engine::open_environment::view;
use super::engine::writer::Writer;
use super::error::{environment_lost_error, lmdb_error};
use super::lmdb::open::free_dead_readers;
use super::lmdb::reader_table::HeldSnapshot;
use super::read::changelog::LogPage;
use super::read::records::{Records, Snapshot};
use super::read::usage::Usage;
use super::schema::log_meta::Retention;
use crate::model::{Context, Error, Result};

/// An open store. Clones share it. Dropping the last clone finishes the accepted writes and closes the
/// store.
#[derive(Clone, Debug)]
pub struct Store {
    // Drop order: the writer thread ends, then the environment closes and unlocks the folder.
    writer: Writer,
    pub(crate) environment: Arc<Environment>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the folder `root`, or creates it, and becomes its owner. It keeps as much of the
    /// log as the last daemon did.
    ///
    /// # Errors
    /// `FailedPrecondition` if another process, or another [`Store`] of this one, owns the folder.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_and_keep(root, None)
    }

    /// As [`open`](Self::open), and keeps that much of the log from now on.
    pub(crate) fn open_and_keep(root: &Path, keep: Option<Retention>) -> Result<Self> {
        let environment = Arc::new(Environment::open(StoreDir::lock(root)?, keep)?);
        let writer = Writer::start(Arc::clone(&environment))?;
        Ok(Self { writer, environment })
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        self.environment.root()
    }

    /// The UUID of the store.
    pub fn uuid(&self) -> &str {
        self.environment.uuid()
    }

    /// Calls `work` with a snapshot of the store. `work` must be short, because LMDB reuses no page that
    /// the snapshot may see. `work` must not call `read` again.
    pub fn read<T>(&self, work: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        let mut opened = self.environment.acquire()?;
        loop {
            if let Some(view) = view(&opened)? {
                return work(&Snapshot { view });
            }
            opened = self.environment.reopen(opened)?;
        }
    }

    /// The ends of the log; `None` while it is off. A reader can read up to these ends.
    pub fn log_head(&self) -> Option<LogHead> {
        *self.environment.log().borrow()
    }

    /// As [`log_head`](Self::log_head), with a wake-up for each change of it.
    pub(crate) fn watch_log(&self) -> watch::Receiver<Option<LogHead>> {
        self.environment.log().subscribe()
    }

    /// Copies entries of the log, from the number `from` on: at least one, if there is one, and then as many
    /// as have `max_bytes` together. It never splits the entries of one commit (`commit_last`), and keeps no snapshot open. If the
    /// log no longer has the entry `from`, the returned head shows it.
    pub(crate) fn read_log(&self, from: u64, max_bytes: usize) -> Result<LogPage> {
        self.read(|snapshot| snapshot.log_page(from, max_bytes))
    }

    /// Starts a new epoch of the log, so that its readers read all images again. Its entries stay.
    pub(crate) fn renew_log_epoch(&self) -> Result<()> {
        let renewed = self.environment.acquire()?.renew_epoch();
        renewed.or_internal("starting a new epoch")
    }

    /// The snapshots that all processes hold, oldest first.
    pub fn readers(&self) -> Result<Vec<HeldSnapshot>> {
        self.environment.readers().held()
    }

    /// The id of LMDB's last transaction.
    pub fn last_commit(&self) -> Result<u64> {
        Ok(self.environment.acquire()?.env.info().last_txn_id as u64)
    }

    /// The size of the store.
    pub fn usage(&self) -> Result<Usage> {
        let opened = self.environment.acquire()?;
        let view = view(&opened)?.ok_or_else(environment_lost_error)?;
        Usage::measure(self.root(), &opened.env, &view)
    }

    /// Checks that the open files are still the files in the folder.
    ///
    /// # Errors
    /// If a file was replaced or removed. The store refuses writes then.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.environment.check_files()
    }

    /// Frees the reader slots of processes that have ended; returns the number of freed slots.
    pub fn free_dead_readers(&self) -> Result<usize> {
        free_dead_readers(&self.environment.acquire()?.env)
    }

    /// Checks that this thread and the writer thread can read the store. Changes nothing.
    pub async fn probe(&self) -> Result<()> {
        self.read(|snapshot| snapshot.probe())?;
        self.writer.write(|change| change.probe()).await
    }

    /// Writes every answered write to LMDB's file. Until the next write, the file can be moved without its
    /// journal.
    pub fn detach_journal(&self) -> Result<()> {
        self.environment.acquire()?.close().map_err(|failed| {
            let error = match failed {
                committer::CommitFailure::Lmdb(e) => {
                    lmdb_error("writing the changes in the journal", &e)
                }
                failed => Error::Internal(format!("writing the changes in the journal: {failed}")),
            };
            disk_space::explain(self.root(), error)
        })
    }

    /// Makes a checkpoint at once.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.environment
            .acquire()?
            .checkpoint()
            .map_err(|failed| Error::Internal(failed.to_string()))
    }

    /// The handle to the writer thread.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ReadOnlyStore;
    use crate::store::dir::root::IN_USE;

    #[test]
    fn a_root_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let refused = Store::open(dir.path()).unwrap_err();
        assert!(
            refused.reason() == Some(IN_USE) && refused.message().contains("process"),
            "{refused}"
        );
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn without_a_store_there_is_nothing_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let missing = ReadOnlyStore::open(dir.path()).unwrap_err();
        assert!(matches!(missing, Error::NotFound(_)), "{missing}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
