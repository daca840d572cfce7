//! The LMDB environment of a store that is owned: opened, and opened again after its disk failed.
//!
//! After a failed write of a meta page LMDB refuses everything until the environment is closed. So
//! whoever meets that refusal, a read or the writer, has it opened again: new users wait, those
//! that are inside end, the file is closed, verified, settled and mapped. While that fails, as the
//! disk is still bad, everybody is told so, and one of the later callers tries once more.
//!
//! A transaction that LMDB aborted needs none of this, not even when it was the sync that failed.
//! The kernel may then have dropped what was not written, and will say so once only; but LMDB
//! writes every page of a transaction again in the next one that uses it, and all that a
//! committed transaction refers to was synced before its meta page was. A later success therefore
//! never rests on the failed sync.

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

/// After a failed attempt to open again, so long nobody tries.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// And at least so many times as long as that attempt took: verifying a large store must not be
/// all that a machine with a bad disk does.
const REOPEN_BACKOFF_FACTOR: u32 = 10;

/// The environment of an owned folder.
pub(crate) struct Environment {
    // Dropped in this order: the environment, its readers' table (see `readers`), the folder.
    state: RwLock<State>,
    readers: ReaderTable,
    uuid: String,
    files: OpenFiles,
    /// Where the log ends, and how much of it is kept if that was told.
    log: ShownLog,
    keep: Option<Retention>,
    root: StoreDir,
}

enum State {
    Open(Arc<OpenEnvironment>),
    /// Opening it again failed.
    Closed {
        why: Error,
        next_attempt: Instant,
    },
}

/// An open environment. It is closed when the last holder lets go of it, so nobody keeps it longer
/// than a transaction takes.
pub(crate) struct OpenEnvironment {
    committer: Mutex<Committer>,
    pub version: CurrentVersion,
    pub env: Env<WithoutTls>,
    pub tables: Tables,
    /// Which opening this is.
    number: u64,
    /// It is to be closed: what takes long must end.
    pub closing: Arc<AtomicBool>,
}

impl OpenEnvironment {
    /// Commits what a batch leads to.
    pub fn commit(&self, changes: BatchChanges) -> Result<(), Failure> {
        self.committer().commit(&self.env, &self.tables, &self.version, changes)
    }

    /// Begins a new epoch of the log.
    pub fn renew_epoch(&self) -> Result<(), Failure> {
        self.committer().renew_epoch(&self.env, &self.tables, &self.version)
    }

    /// Brings what is recent into LMDB's file.
    pub fn checkpoint(&self) -> Result<(), Failure> {
        let recent = self.version.overlay();
        self.committer().checkpoint(&self.env, &self.tables, &self.version, recent)
    }

    /// Brings what is recent into LMDB's file, which needs no journal from then on.
    pub fn close(&self) -> Result<(), Failure> {
        self.committer().close(&self.env, &self.tables, &self.version)
    }

    /// Mostly the writing thread asks for it.
    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Environment {
    /// Opens the environment in a folder, creating it if need be. So much of the log is kept, or as much
    /// as last time.
    pub fn open(root: StoreDir, keep: Option<Retention>) -> Result<Self> {
        let log = ShownLog::default();
        let opened = create_if_new(&root).and_then(|()| open(&root, 0, (keep, log.clone())));
        let (opened, uuid) = opened.map_err(|e| disk_space::explain(root.path(), e))?;
        let readers = ReaderTable::open(root.path())?;
        let files = root.open_files()?;
        let state = RwLock::new(State::Open(Arc::new(opened)));
        Ok(Self { state, readers, uuid, files, log, keep, root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// What tells this store from all others.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// An error when what is open is no longer what is in the folder: what is written then may be
    /// lost.
    pub fn check_files(&self) -> Result<()> {
        self.files.check()
    }

    /// Whether the file system is as good as full. LMDB tells of a write that found too little room
    /// as of any other that was cut short.
    pub fn is_full(&self) -> bool {
        disk_space::is_full(self.root.path())
    }

    /// Where the log ends.
    pub fn log(&self) -> &ShownLog {
        &self.log
    }

    /// LMDB's table of readers.
    pub fn readers(&self) -> &ReaderTable {
        &self.readers
    }

    /// The open environment, for one transaction. Whoever holds one must not ask for another.
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

    /// Whether there is something for a checkpoint to do.
    pub fn has_uncheckpointed(&self) -> bool {
        self.is(|opened| opened.committer().has_uncheckpointed(&opened.version))
    }

    /// Whether a checkpoint is due before the next change.
    pub fn checkpoint_due(&self) -> bool {
        self.is(|opened| opened.committer().checkpoint_due(&opened.version))
    }

    fn is(&self, so: impl FnOnce(&OpenEnvironment) -> bool) -> bool {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) => so(opened),
            State::Closed { .. } => false,
        }
    }

    /// Closes a broken environment, once all transactions in it have ended, and opens it again.
    pub fn reopen(&self, broken: Arc<OpenEnvironment>) -> Result<Arc<OpenEnvironment>> {
        let number = broken.number;
        // What waits for the end of all holders must not be one.
        drop(broken);
        self.replace(Some(number))
    }

    fn replace(&self, broken: Option<u64>) -> Result<Arc<OpenEnvironment>> {
        // From here on nobody comes in.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let number = match &*state {
            // Somebody else was faster.
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
        // Another store may be at the path by now; and none is made in the place of this one.
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

/// Verifies, settles and opens, the `number`th time. Gives the store's UUID too.
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
    let (committer, shown) = Committer::open(root, &env, &tables, &uuid, log)?;
    store_id::write(root.path(), &uuid)?;
    root.sync()?;
    let (committer, closing) = (Mutex::new(committer), Arc::default());
    Ok((OpenEnvironment { committer, version: shown, env, tables, number, closing }, uuid))
}

/// The changes that the journal of a store of schema 3 holds on top of a checkpoint.
fn old_journal(root: &Path, uuid: &str, checkpoint: u64) -> Result<Vec<OwnedOp>> {
    let replay = replay::read_v1(root, uuid, checkpoint)?;
    let ops = replay.batches.iter().flat_map(WriteBatch::iter);
    Ok(ops.map(|(table, key, value)| (table, key.to_vec(), value.map(<[u8]>::to_vec))).collect())
}

/// Makes a store in a folder that never held one.
fn create_if_new(root: &StoreDir) -> Result<()> {
    if permissions::stat_regular(&root.data_file())?.is_some_and(|found| found.len() > 0) {
        return Ok(());
    }
    store_id::check_without_data(root.path())?;
    create(root)
}

/// Makes an empty store beside its place and then moves it there, so that a power cut in between
/// leaves no store, rather than a part of one that would have to be refused.
fn create(root: &StoreDir) -> Result<()> {
    let told = |e| Error::Internal(format!("making a store in {}: {e}", root.path().display()));
    let scratch = ScratchFolder::create_in(root.path())?;
    let env = map(scratch.path())?;
    databases::open(&env, scratch.path(), &|_, _| Ok(Vec::new()))?;
    env.prepare_for_closing().wait();
    let made = scratch.path().join(DATA_FILE);
    std::fs::File::open(&made).and_then(|file| file.sync_all()).map_err(told)?;
    std::fs::rename(&made, root.data_file()).map_err(told)?;
    root.sync()
}

/// The last state that was committed; none of an environment that LMDB refuses.
pub(crate) fn view(opened: &OpenEnvironment) -> Result<Option<View<'_>>> {
    let begin = || Ok(begin_to_read(&opened.env)?.map(|txn| (txn.id() as u64, txn)));
    let limit = opened.version.begin_snapshot();
    let begun = opened.version.pin(begin)?;
    Ok(begun.map(|(txn, recent)| {
        let closing = Arc::clone(&opened.closing);
        let view = View::new(Txn::Reader(txn), &opened.tables, recent);
        view.interrupted_by(closing).with_limit(limit)
    }))
}

/// The same for the writing thread, which waits until no other process writes.
pub(crate) fn view_to_write(opened: &OpenEnvironment) -> Result<Option<View<'_>>> {
    let txn = match opened.env.write_txn() {
        Ok(txn) => txn,
        Err(heed::Error::Mdb(heed::MdbError::Panic)) => return Ok(None),
        Err(e) => return Err(lmdb_error("beginning to write", &e)),
    };
    // Nobody commits while this transaction is open.
    let recent = opened.version.pin_for_write((txn.id() as u64).saturating_sub(1));
    Ok(Some(View::new(Txn::Writer(txn), &opened.tables, recent)))
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
