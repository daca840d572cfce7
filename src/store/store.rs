//! A store that this process owns: reads, and writes by its one writer thread.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::changelog::LogHead;
use super::dir::disk_space;
use super::dir::root::StoreDir;
use super::engine::committer;
use super::engine::environment::{Environment, view};
use super::engine::writer::Writer;
use super::error::{environment_lost_error, lmdb_error};
use super::lmdb::open::free_dead_readers;
use super::lmdb::reader_table::HeldSnapshot;
use super::read::changelog::LogPage;
use super::read::records::{Records, Snapshot};
use super::read::usage::Usage;
use super::schema::log_meta::Retention;
use crate::model::{Error, Result};

/// An open store. Clones share it; the last one closes it, after all accepted writes.
#[derive(Clone, Debug)]
pub struct Store {
    // Dropped in this order: writes end, the environment closes and gives up the folder.
    writer: Writer,
    pub(crate) environment: Arc<Environment>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the folder `root`, creating both if need be, and takes ownership of it:
    /// a second owner, in any process, is refused until this one is dropped. As much of the log is kept as
    /// last time.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_and_keep(root, None)
    }

    /// The same, and keeps so much of the log from now on.
    pub fn open_and_keep(root: &Path, keep: Option<Retention>) -> Result<Self> {
        let environment = Arc::new(Environment::open(StoreDir::lock(root)?, keep)?);
        let writer = Writer::start(Arc::clone(&environment))?;
        Ok(Self { writer, environment })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.environment.root()
    }

    /// What tells this store from all others, for as long as it lives.
    pub fn uuid(&self) -> &str {
        self.environment.uuid()
    }

    /// Reads from one state of the store. `work` must be short: pages that it may still see are
    /// not used again while it runs. It must not read again by itself.
    pub fn read<T>(&self, work: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        let mut opened = self.environment.acquire()?;
        loop {
            if let Some(view) = view(&opened)? {
                return work(&Snapshot { view });
            }
            opened = self.environment.reopen(opened)?;
        }
    }

    /// Where the log begins and ends: what is told here can be read. None while the log is off.
    pub fn log_head(&self) -> Option<LogHead> {
        *self.environment.log().borrow()
    }

    /// The same, with a wake-up for each change of it.
    pub fn watch_log(&self) -> watch::Receiver<Option<LogHead>> {
        self.environment.log().subscribe()
    }

    /// The entries of the log from the number `from` on: at least one, if there is one, and then as many
    /// as have `most` bytes together. What became visible at once is never split. They are copied: no
    /// snapshot is held. Where the log begins is told with them, so a reader that asks for what is
    /// gone notices.
    pub fn read_log(&self, from: u64, most: usize) -> Result<LogPage> {
        self.read(|snapshot| snapshot.log_page(from, most))
    }

    /// Begins a new epoch of the log, whose entries stay: who reads it reads all images again.
    pub fn renew_log_epoch(&self) -> Result<()> {
        let renewed = self.environment.acquire()?.renew_epoch();
        renewed.map_err(|failed| Error::Internal(format!("beginning a new epoch: {failed}")))
    }

    /// The snapshots that all processes hold, the oldest first.
    pub fn readers(&self) -> Result<Vec<HeldSnapshot>> {
        self.environment.readers().held()
    }

    /// The number of the last commit.
    pub fn last_commit(&self) -> Result<u64> {
        Ok(self.environment.acquire()?.env.info().last_txn_id as u64)
    }

    /// How large the store is.
    pub fn usage(&self) -> Result<Usage> {
        let opened = self.environment.acquire()?;
        let view = view(&opened)?.ok_or_else(environment_lost_error)?;
        Usage::measure(self.root(), &opened.env, &view)
    }

    /// An error when the files that are open are no longer those in the folder. Writes are refused
    /// then.
    pub fn check_files(&self) -> Result<()> {
        self.environment.check_files()
    }

    /// Takes back the places of readers whose process is gone; says how many.
    pub fn free_dead_readers(&self) -> Result<usize> {
        free_dead_readers(&self.environment.acquire()?.env)
    }

    /// Tries whether the store can be read, here and on the writing thread. It changes nothing.
    pub async fn probe(&self) -> Result<()> {
        self.read(|snapshot| snapshot.probe())?;
        self.writer.write(|change| change.probe()).await
    }

    /// Brings every answered change into LMDB's file, which may be moved without its journal from then
    /// on, until the next change.
    pub fn detach_journal(&self) -> Result<()> {
        self.environment.acquire()?.close().map_err(|failed| {
            let error = match failed {
                committer::Failure::Lmdb(e) => lmdb_error("writing what is in the journal", &e),
                failed => Error::Internal(format!("writing what is in the journal: {failed}")),
            };
            disk_space::explain(self.root(), error)
        })
    }

    /// Makes a checkpoint now.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.environment
            .acquire()?
            .checkpoint()
            .map_err(|failed| Error::Internal(failed.to_string()))
    }

    /// Where changes are handed in.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ReadOnlyStore;

    #[test]
    fn a_root_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let refused = Store::open(dir.path()).unwrap_err();
        assert!(
            matches!(&refused, Error::FailedPrecondition(m) if m.contains("process")),
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
