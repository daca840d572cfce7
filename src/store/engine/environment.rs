//! The LMDB environment of a store that this process owns. It is reopened after a disk failure.
//!
//! After a failed write of a meta page LMDB refuses every transaction until the environment is
//! closed. The reader or writer thread that meets this refusal reopens the environment: new
//! transactions wait, running ones end, and the file is closed, verified, made durable
//! ([`crate::store::recovery::meta_sync`]) and mapped. If reopening fails because the disk is still
//! bad, all callers get an error, and a later caller tries again.
//!
//! A transaction that LMDB aborted needs no reopening, not even if its sync failed. After a failed
//! sync the kernel may drop unwritten pages, and reports that once only. But the next transaction
//! writes all of its pages itself, and LMDB syncs the pages that a transaction references before it
//! writes the meta page. So a later success never depends on the failed sync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::model::{Error, Result};
use crate::store::dir::disk_space;
use crate::store::dir::open_files::OpenFiles;
use crate::store::dir::root::StoreDir;
use crate::store::engine::create::create_if_new;
use crate::store::engine::open_environment::{OpenEnvironment, open};
use crate::store::engine::version::ShownLog;
use crate::store::lmdb::reader_table::ReaderTable;
use crate::store::schema::log_meta::Retention;

/// The shortest time between two attempts to reopen the environment.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two attempts is at least this many times the duration of the failed attempt: a
/// machine with a bad disk must not spend all its time on verifying a large store.
const REOPEN_BACKOFF_FACTOR: u32 = 10;

/// The environment of an owned folder.
pub(crate) struct Environment {
    // Drop order: the environment, its reader table (see `reader_table`), the folder.
    state: RwLock<State>,
    readers: ReaderTable,
    uuid: String,
    files: OpenFiles,
    /// The ends of the log, and how much of it is kept.
    log: ShownLog,
    keep: Option<Retention>,
    root: StoreDir,
}

enum State {
    Open(Arc<OpenEnvironment>),
    /// Reopening failed.
    Closed {
        why: Error,
        next_attempt: Instant,
    },
}

impl Environment {
    /// Opens the environment in a folder, and creates the store if the folder never held one. `keep` is
    /// how much of the log is kept: as much as before if `None`.
    pub(crate) fn open(root: StoreDir, keep: Option<Retention>) -> Result<Self> {
        let log = ShownLog::default();
        let opened = create_if_new(&root).and_then(|()| open(&root, 0, (keep, log.clone())));
        let (opened, uuid) = opened.map_err(|e| disk_space::explain(root.path(), e))?;
        let readers = ReaderTable::open(root.path())?;
        let files = root.open_files()?;
        let state = RwLock::new(State::Open(Arc::new(opened)));
        Ok(Self { state, readers, uuid, files, log, keep, root })
    }

    /// The folder of the store.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The UUID of the store.
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Checks that the open files are still the files in the folder.
    ///
    /// # Errors
    /// If a file was replaced or removed: writes to it may be lost.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.files.check()
    }

    /// Whether the file system is almost full. LMDB reports a full disk as it reports any short write,
    /// so the caller has to ask.
    pub(crate) fn is_full(&self) -> bool {
        disk_space::is_full(self.root.path())
    }

    /// The ends of the log.
    pub(crate) fn log(&self) -> &ShownLog {
        &self.log
    }

    /// LMDB's reader table.
    pub(crate) fn readers(&self) -> &ReaderTable {
        &self.readers
    }

    /// The open environment, for one transaction. A caller that holds one must not acquire another:
    /// reopening waits until all are dropped.
    pub(crate) fn acquire(&self) -> Result<Arc<OpenEnvironment>> {
        match &*self.state.read() {
            State::Open(opened) => return Ok(Arc::clone(opened)),
            State::Closed { why, next_attempt } if Instant::now() < *next_attempt => {
                return Err(why.clone());
            }
            State::Closed { .. } => {}
        }
        self.replace(None)
    }

    /// Whether a checkpoint would write anything.
    pub(crate) fn has_uncheckpointed(&self) -> bool {
        self.is_open_and(OpenEnvironment::has_uncheckpointed)
    }

    /// Whether a checkpoint is due before the next batch.
    pub(crate) fn checkpoint_due(&self) -> bool {
        self.is_open_and(OpenEnvironment::checkpoint_due)
    }

    fn is_open_and(&self, test: impl FnOnce(&OpenEnvironment) -> bool) -> bool {
        match &*self.state.read() {
            State::Open(opened) => test(opened),
            State::Closed { .. } => false,
        }
    }

    /// Closes a broken environment after all its transactions have ended, and opens it again.
    pub(crate) fn reopen(&self, broken: Arc<OpenEnvironment>) -> Result<Arc<OpenEnvironment>> {
        let number = broken.number;
        // `replace` waits until all holders have dropped theirs.
        drop(broken);
        self.replace(Some(number))
    }

    fn replace(&self, broken: Option<u64>) -> Result<Arc<OpenEnvironment>> {
        // While this lock is held no new transaction starts.
        let mut state = self.state.write();
        let now = Instant::now();
        let number = match &*state {
            // Another thread has already reopened it.
            State::Open(opened) if broken != Some(opened.number) => return Ok(Arc::clone(opened)),
            State::Closed { why, next_attempt } if now < *next_attempt => return Err(why.clone()),
            State::Open(opened) => opened.number,
            State::Closed { .. } => broken.unwrap_or_default(),
        };
        let closed = State::Closed { why: unavailable("it is closing"), next_attempt: now };
        if let State::Open(opened) = std::mem::replace(&mut *state, closed) {
            log::warn!("LMDB refuses the environment after a failed write; opening it again");
            opened.closing.store(true, Ordering::Relaxed);
            let closing = opened.env.clone().prepare_for_closing();
            drop(opened);
            closing.wait();
        }
        // Another store may be at the path now, and no new store may replace this one.
        let log = (self.keep, self.log.clone());
        let opened =
            self.files.check().and_then(|()| open(&self.root, number.wrapping_add(1), log));
        match opened {
            Ok((opened, _)) => {
                log::info!("the store is open again");
                let opened = Arc::new(opened);
                *state = State::Open(Arc::clone(&opened));
                Ok(opened)
            }
            Err(e) => {
                log::error!("the store cannot be opened again: {e}");
                let why = unavailable(e.message());
                let pause =
                    REOPEN_INTERVAL.max(now.elapsed().saturating_mul(REOPEN_BACKOFF_FACTOR));
                *state = State::Closed { why: why.clone(), next_attempt: Instant::now() + pause };
                Err(why)
            }
        }
    }
}

fn unavailable(why: &str) -> Error {
    Error::Unavailable(format!(
        "a write to the disk failed, and the store cannot be opened again: {why}; it is tried again"
    ))
}

#[cfg(test)]
mod tests {
    use crate::store::dir::files::DATA_FILE;
    use std::fs;
    use std::sync::mpsc;

    use super::*;
    use crate::model::Namespace;
    use crate::store::{Kind, Records, Store};

    const NAME_COUNT: usize = 100;

    fn store(dir: &Path) -> Store {
        let store = Store::open(dir).unwrap();
        let put = |change: &mut crate::store::Transaction<'_>| {
            let namespace = Namespace::parse("n").unwrap();
            (0..NAME_COUNT).try_for_each(|number| {
                change.put(&namespace, Kind::Lease, &format!("{number}"), b"", None)
            })
        };
        store.writer().write_blocking(put).unwrap();
        store
    }

    fn count(store: &Store) -> Result<usize> {
        let namespace = Namespace::parse("n").unwrap();
        store.read(|snapshot| {
            snapshot
                .scan(&namespace, Kind::Lease)?
                .try_fold(0, |count, entry| entry.map(|_| count + 1))
        })
    }

    #[test]
    fn a_store_whose_data_file_is_gone_is_not_made_anew_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let environment = &store.environment;
        fs::rename(dir.path().join(DATA_FILE), dir.path().join("away")).unwrap();
        let refused = environment.reopen(environment.acquire().unwrap()).err().unwrap();
        assert!(refused.message().contains("was removed"), "{refused}");
        assert!(!dir.path().join(DATA_FILE).exists());
        fs::rename(dir.path().join("away"), dir.path().join(DATA_FILE)).unwrap();
        std::thread::sleep(REOPEN_INTERVAL);
        assert_eq!(count(&store).unwrap(), NAME_COUNT);
    }

    #[test]
    fn writes_are_refused_while_the_folder_is_gone_and_reads_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (root, away) = (dir.path().join("root"), dir.path().join("away"));
        let store = store(&root);
        let write = || store.writer().write_blocking(|_| Ok(()));
        write().unwrap();
        for replaced in [false, true] {
            fs::rename(&root, &away).unwrap();
            if replaced {
                fs::create_dir(&root).unwrap();
            }
            let refused = write().unwrap_err();
            assert!(matches!(&refused, Error::Unavailable(_)), "{refused}");
            assert!(refused.message().contains(if replaced { "replaced" } else { "removed" }));
            assert_eq!(count(&store).unwrap(), NAME_COUNT);
            // Over an empty folder, if there is one.
            fs::rename(&away, &root).unwrap();
            write().unwrap();
        }
    }

    #[test]
    fn opening_the_store_again_ends_long_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let (begun, has_begun) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let reading = std::thread::spawn({
            let store = store.clone();
            move || {
                let namespace = Namespace::parse("n").unwrap();
                store.read(|snapshot| -> Result<()> {
                    // Longer than any test waits, unless it is ended.
                    loop {
                        for entry in snapshot.scan(&namespace, Kind::Lease)? {
                            entry?;
                        }
                        let _ = begun.send(());
                    }
                })
            }
        });
        has_begun.recv().unwrap();
        std::thread::spawn({
            let store = store.clone();
            move || {
                let environment = &store.environment;
                let opened = environment.reopen(environment.acquire().unwrap());
                done.send(opened.map(drop)).unwrap();
            }
        });
        is_done
            .recv_timeout(Duration::from_secs(30))
            .expect("opening again waits for the read")
            .unwrap();
        let ended = reading.join().unwrap().unwrap_err();
        assert!(matches!(&ended, Error::Unavailable(m) if m.contains("opened again")), "{ended}");
        assert_eq!(count(&store).unwrap(), NAME_COUNT);
    }
}
