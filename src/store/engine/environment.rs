//! The LMDB environment of a store that this process owns. It is reopened after a disk failure.
//!
//! After a failed write of a meta page LMDB refuses every transaction until the environment is
//! closed. The reader or writer thread that meets this refusal reopens the environment: new
//! transactions wait, running ones end, and the file is closed, verified, made durable
//! ([`meta_sync`]) and mapped. If reopening fails because the disk is still bad, all callers get an
//! error, and a later caller tries again.
//!
//! A transaction that LMDB aborted needs no reopening, not even if its sync failed. After a failed
//! sync the kernel may drop unwritten pages, and reports that once only. But the next transaction
//! writes all of its pages itself, and LMDB syncs the pages that a transaction references before it
//! writes the meta page. So a later success never depends on the failed sync.

use crate::store::dir::files::DATA_FILE;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use heed::{Env, WithoutTls};

use crate::model::{Error, Result};
use crate::store::dir::open_files::OpenFiles;
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;
use crate::store::dir::{disk_space, permissions, store_id};
use crate::store::engine::committer::{Committer, Failure};
use crate::store::engine::transaction::BatchChanges;
use crate::store::engine::version::{CurrentVersion, ShownLog};
use crate::store::error::lmdb_error;
use crate::store::journal::entry::WriteBatch;
use crate::store::journal::replay;
use crate::store::lmdb::open::{begin_to_read, map};
use crate::store::lmdb::reader_table::ReaderTable;
use crate::store::read::view::{Txn, View};
use crate::store::recovery::{meta_sync, verify};
use crate::store::schema::databases;
use crate::store::schema::log_meta::Retention;
use crate::store::schema::table::OwnedOp;
use crate::store::schema::tables::Tables;

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

/// An open environment. It is closed when its last `Arc` is dropped, so no holder may keep one longer
/// than a transaction takes.
pub(crate) struct OpenEnvironment {
    committer: Mutex<Committer>,
    pub version: CurrentVersion,
    pub env: Env<WithoutTls>,
    pub tables: Tables,
    /// Counts how often the environment was opened.
    number: u64,
    /// Set when the environment must be closed: long reads end with an error then.
    pub closing: Arc<AtomicBool>,
}

impl OpenEnvironment {
    /// Commits the writes of a batch.
    pub fn commit(&self, changes: BatchChanges) -> Result<(), Failure> {
        self.committer().commit(&self.env, &self.tables, &self.version, changes)
    }

    /// Starts a new epoch of the log.
    pub fn renew_epoch(&self) -> Result<(), Failure> {
        self.committer().renew_epoch(&self.env, &self.tables, &self.version)
    }

    /// Writes the overlay to LMDB's file.
    pub fn checkpoint(&self) -> Result<(), Failure> {
        let overlay = self.version.overlay();
        self.committer().checkpoint(&self.env, &self.tables, &self.version, overlay)
    }

    /// Writes the overlay to LMDB's file, which needs no journal from then on.
    pub fn close(&self) -> Result<(), Failure> {
        self.committer().close(&self.env, &self.tables, &self.version)
    }

    // Uncontended: almost all calls come from the writer thread.
    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Environment {
    /// Opens the environment in a folder, and creates the store if the folder never held one. `keep` is
    /// how much of the log is kept: as much as before if `None`.
    pub fn open(root: StoreDir, keep: Option<Retention>) -> Result<Self> {
        let log = ShownLog::default();
        let opened = create_if_new(&root).and_then(|()| open(&root, 0, (keep, log.clone())));
        let (opened, uuid) = opened.map_err(|e| disk_space::explain(root.path(), e))?;
        let readers = ReaderTable::open(root.path())?;
        let files = root.open_files()?;
        let state = RwLock::new(State::Open(Arc::new(opened)));
        Ok(Self { state, readers, uuid, files, log, keep, root })
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The UUID of the store.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Checks that the open files are still the files in the folder.
    ///
    /// # Errors
    /// If a file was replaced or removed: writes to it may be lost.
    pub fn check_files(&self) -> Result<()> {
        self.files.check()
    }

    /// Whether the file system is almost full. LMDB reports a full disk as it reports any short write,
    /// so the caller has to ask.
    pub fn is_full(&self) -> bool {
        disk_space::is_full(self.root.path())
    }

    /// The ends of the log.
    pub fn log(&self) -> &ShownLog {
        &self.log
    }

    /// LMDB's reader table.
    pub fn readers(&self) -> &ReaderTable {
        &self.readers
    }

    /// The open environment, for one transaction. A caller that holds one must not acquire another:
    /// reopening waits until all are dropped.
    pub fn acquire(&self) -> Result<Arc<OpenEnvironment>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) => return Ok(Arc::clone(opened)),
            State::Closed { why, next_attempt } if Instant::now() < *next_attempt => {
                return Err(why.clone());
            }
            State::Closed { .. } => {}
        }
        self.replace(None)
    }

    /// Whether a checkpoint would write anything.
    pub fn has_uncheckpointed(&self) -> bool {
        self.is_open_and(|opened| opened.committer().has_uncheckpointed(&opened.version))
    }

    /// Whether a checkpoint is due before the next batch.
    pub fn checkpoint_due(&self) -> bool {
        self.is_open_and(|opened| opened.committer().checkpoint_due(&opened.version))
    }

    fn is_open_and(&self, test: impl FnOnce(&OpenEnvironment) -> bool) -> bool {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) => test(opened),
            State::Closed { .. } => false,
        }
    }

    /// Closes a broken environment after all its transactions have ended, and opens it again.
    pub fn reopen(&self, broken: Arc<OpenEnvironment>) -> Result<Arc<OpenEnvironment>> {
        let number = broken.number;
        // `replace` waits until all holders have dropped theirs.
        drop(broken);
        self.replace(Some(number))
    }

    fn replace(&self, broken: Option<u64>) -> Result<Arc<OpenEnvironment>> {
        // While this lock is held no new transaction starts.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
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

/// Verifies the data file, makes its meta pages durable and opens the environment for the `number`th
/// time. Returns the store's UUID too.
fn open(
    root: &StoreDir,
    number: u64,
    log: (Option<Retention>, ShownLog),
) -> Result<(OpenEnvironment, String)> {
    let file = root.data_file();
    verify::check_before_mmap(&file)?;
    let newest = meta_sync::make_meta_durable(&file)?;
    let env = map(root.path())?;
    if env.info().last_txn_id as u64 != newest {
        return Err(Error::Unavailable(format!(
            "{} was left by a failed write in a state that another process, which has it open, \
             does not know; end that process",
            file.display()
        )));
    }
    let (tables, uuid) = databases::open(&env, root.path(), &|uuid, checkpoint| {
        old_journal(root.path(), uuid, checkpoint)
    })?;
    store_id::check(root.path(), &uuid)?;
    let (committer, version) = Committer::open(root, &env, &tables, &uuid, log)?;
    store_id::write(root.path(), &uuid)?;
    root.sync()?;
    let (committer, closing) = (Mutex::new(committer), Arc::default());
    Ok((OpenEnvironment { committer, version, env, tables, number, closing }, uuid))
}

/// The writes that the journal of a store of schema 3 holds on top of a checkpoint.
fn old_journal(root: &Path, uuid: &str, checkpoint: u64) -> Result<Vec<OwnedOp>> {
    let replay = replay::read_v1(root, uuid, checkpoint)?;
    let ops = replay.batches.iter().flat_map(WriteBatch::iter);
    Ok(ops.map(|(table, key, value)| (table, key.to_vec(), value.map(<[u8]>::to_vec))).collect())
}

/// Creates a store if the folder never held one.
fn create_if_new(root: &StoreDir) -> Result<()> {
    if permissions::stat_regular(&root.data_file())?.is_some_and(|found| found.len() > 0) {
        return Ok(());
    }
    store_id::check_without_data(root.path())?;
    create(root)
}

/// Creates an empty store in a temporary folder and renames it into place, so that a power cut leaves
/// no store instead of an incomplete one, which the next start would refuse.
fn create(root: &StoreDir) -> Result<()> {
    let to_error = |e| Error::Internal(format!("making a store in {}: {e}", root.path().display()));
    let scratch = ScratchFolder::create_in(root.path())?;
    let env = map(scratch.path())?;
    databases::open(&env, scratch.path(), &|_, _| Ok(Vec::new()))?;
    env.prepare_for_closing().wait();
    let made = scratch.path().join(DATA_FILE);
    std::fs::File::open(&made).and_then(|file| file.sync_all()).map_err(to_error)?;
    std::fs::rename(&made, root.data_file()).map_err(to_error)?;
    root.sync()
}

/// A view of the last committed state; `None` if LMDB refuses the environment.
pub(crate) fn view(opened: &OpenEnvironment) -> Result<Option<View<'_>>> {
    let begin = || Ok(begin_to_read(&opened.env)?.map(|txn| (txn.id() as u64, txn)));
    let limit = opened.version.begin_snapshot();
    let pinned = opened.version.pin(begin)?;
    Ok(pinned.map(|(txn, overlay)| {
        let closing = Arc::clone(&opened.closing);
        let view = View::new(Txn::Reader(txn), &opened.tables, overlay);
        view.interrupted_by(closing).with_limit(limit)
    }))
}

/// The view of the writer thread; `None` if LMDB refuses the environment. Waits until no other process
/// writes.
pub(crate) fn view_to_write(opened: &OpenEnvironment) -> Result<Option<View<'_>>> {
    let txn = match opened.env.write_txn() {
        Ok(txn) => txn,
        Err(heed::Error::Mdb(heed::MdbError::Panic)) => return Ok(None),
        Err(e) => return Err(lmdb_error("beginning to write", &e)),
    };
    // No other transaction commits while this one is open.
    let overlay = opened.version.pin_for_write((txn.id() as u64).saturating_sub(1));
    Ok(Some(View::new(Txn::Writer(txn), &opened.tables, overlay)))
}

#[cfg(test)]
mod tests {
    use crate::store::dir::files::{JOURNAL_FILE, LOCK_FILE, STORE_ID_FILE};
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
    fn an_empty_or_missing_data_file_beside_others_of_a_store_is_damage_and_changes_nothing() {
        for other in [LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE] {
            for length in [Some(0), None] {
                let dir = tempfile::tempdir().unwrap();
                drop(store(dir.path()));
                let all = [DATA_FILE, LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE];
                for file in all.into_iter().filter(|file| *file != other) {
                    fs::remove_file(dir.path().join(file)).unwrap();
                }
                if length.is_some() {
                    fs::write(dir.path().join(DATA_FILE), "").unwrap();
                }
                let refused = Store::open(dir.path()).unwrap_err();
                assert!(
                    matches!(&refused, Error::DataLoss(m) if m.contains("missing or empty")),
                    "{refused}"
                );
                let found = permissions::stat_regular(&dir.path().join(DATA_FILE)).unwrap();
                assert_eq!(found.map(|found| found.len()), length);
                fs::remove_file(dir.path().join(other)).unwrap();
                assert_eq!(count(&Store::open(dir.path()).unwrap()).unwrap(), 0);
            }
        }
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
    fn opening_again_ends_reads_that_go_on_for_long() {
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
