//! The store: records of containerd in one LMDB environment.
//!
//! - [`schema`]: what lies where, drawn as a tree, and its version; [`table`]: its databases
//! - [`value`]: the header and checksum around every record
//! - [`verify`]: what is checked of a file before LMDB maps it, by a reader of our own
//! - [`identity`]: what the folder remembers of its store
//! - [`root`]: the folder, who owns it; [`folder`], [`filesystem`]: who may change it, where it lies
//! - `environment`: LMDB's environment, opened again after its disk failed; `settle`: what must be
//!   on disk before the first write
//! - [`journal`]: where a change is on disk first; [`recent`]: the same in memory; `commit`: from
//!   there into LMDB's file; `shown`: what readers see of it
//! - `scratch`: temporary folders; [`lock_file`]: locks; `file_identity`: whether open files are still
//!   in their place; `disk_space`: a full disk
//! - `view`: LMDB's databases with what is recent on top: all reading goes through it
//! - [`records`]: looking records up; [`change`]: changing them; [`walk`]: in their order
//! - [`readers`]: who holds which snapshot, in all processes; [`usage`]: how large the store is
//! - [`indexes`]: what is kept beside the records, so that filters need not read them all
//! - [`search`]: finding the images that a plan asks for
//! - [`migrate`]: bringing a store of an older version to this one
//! - [`inspect`]: every record, for `check`; [`salvage`]: out of a damaged file, without LMDB
//! - [`writer`]: the one thread that writes, and commits what waits together; `job`: what it does
//!
//! Synchronous. It knows names and bytes; what a request means is `service`'s. This is the only
//! module that names heed, and the only one with `unsafe`.

pub mod change;
mod commit;
mod disk_space;
mod environment;
mod file_identity;
pub mod filesystem;
pub mod folder;
pub mod identity;
pub mod indexes;
pub mod inspect;
mod job;
pub mod journal;
pub mod lock_file;
pub mod migrate;
pub mod readers;
pub mod recent;
pub mod records;
pub mod root;
pub mod salvage;
pub mod schema;
pub mod scratch;
pub mod search;
mod settle;
mod shown;
mod snapshot_limit;
pub mod table;
pub mod usage;
pub mod value;
pub mod verify;
mod view;
pub mod walk;
pub mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heed::{CompactionOption, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};
use nix::fcntl::FlockArg;

use crate::model::{Error, Result};
pub use change::Change;
use environment::{Environment, Opened};
use journal::Expected;
use journal::replay::{self, Fault};
use readers::{Held, Readers};
use recent::Recent;
pub use records::{Records, Snapshot};
use root::Root;
pub use schema::Kind;
use schema::{LastCheckpoint, Tables};
use usage::Usage;
use verify::state::State;
use view::{Txn, View};
pub use walk::Entry;
use writer::Writer;

/// Readers at one time, of all processes together. A daemon needs a few; an admin's command one.
pub const MAX_READERS: u32 = 512;

/// Address space that is reserved for the map. It costs neither memory nor disk.
const MAP_SIZE: usize = 1 << 40;

/// The smallest map that is worth starting with, when the address space is limited.
const MIN_MAP_SIZE: usize = 16 << 20;

/// A journal counts as damaged when a reader beside the daemon found the same fault in it so often,
/// with no checkpoint in between.
const LOOKS_AT_FAULT: u32 = 10;

/// The time between two such looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// An open store. Clones share it; the last one closes it, after all accepted writes.
#[derive(Clone, Debug)]
pub struct Store {
    // Dropped in this order: writes end, the environment closes and gives up the folder.
    writer: Writer,
    environment: Arc<Environment>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the folder `root`, creating both if need be, and takes ownership of it:
    /// a second owner, in any process, is refused until this one is dropped.
    pub fn open(root: &Path) -> Result<Self> {
        let environment = Arc::new(Environment::open(Root::acquire(root)?)?);
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
        let mut opened = self.environment.get()?;
        loop {
            if let Some(view) = view(&opened)? {
                return work(&Snapshot { view });
            }
            opened = self.environment.reopen(opened)?;
        }
    }

    /// The snapshots that all processes hold, the oldest first.
    pub fn readers(&self) -> Result<Vec<Held>> {
        self.environment.readers().held()
    }

    /// The number of the last commit.
    pub fn last_commit(&self) -> Result<u64> {
        Ok(self.environment.get()?.env.info().last_txn_id as u64)
    }

    /// How large the store is.
    pub fn usage(&self) -> Result<Usage> {
        let opened = self.environment.get()?;
        let view = view(&opened)?.ok_or_else(refused)?;
        Usage::measure(self.root(), &opened.env, &view)
    }

    /// An error when the files that are open are no longer those in the folder. Writes are refused
    /// then.
    pub fn check_files(&self) -> Result<()> {
        self.environment.check_files()
    }

    /// Takes back the places of readers whose process is gone; says how many.
    pub fn free_dead_readers(&self) -> Result<usize> {
        free_dead_readers(&self.environment.get()?.env)
    }

    /// Tries whether the store can be read, here and on the writing thread. It changes nothing.
    pub async fn probe(&self) -> Result<()> {
        self.read(|snapshot| snapshot.probe())?;
        self.writer.write(|change| change.probe()).await
    }

    /// Brings every answered change into LMDB's file, which may be moved without its journal from then
    /// on, until the next change.
    pub fn detach_journal(&self) -> Result<()> {
        self.environment.get()?.close().map_err(|failed| {
            let error = match failed {
                commit::Failure::Lmdb(e) => failure("writing what is in the journal", &e),
                failed => Error::Internal(format!("writing what is in the journal: {failed}")),
            };
            disk_space::explain(self.root(), error)
        })
    }

    /// Makes a checkpoint now.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.environment.get()?.checkpoint().map_err(|failed| Error::Internal(failed.to_string()))
    }

    /// Where changes are handed in.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }
}

/// A store that is only read, beside the daemon that owns it or without one.
#[derive(Debug)]
pub struct Reader {
    env: Env<WithoutTls>,
    // After the environment: see `readers`.
    readers: Readers,
    tables: Tables,
    uuid: String,
    root: PathBuf,
    state: State,
}

impl Reader {
    /// Opens the store in the folder `root`, which must be there. Nothing in it is changed but
    /// LMDB's list of readers.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join(root::DATA_FILE);
        let missing = || Error::not_found(format_args!("there is no store in {}", root.display()));
        let found = match folder::look(&path)?.filter(|found| found.len() > 0) {
            Some(found) => found,
            None => {
                identity::check_without_data(root)?;
                return Err(missing());
            }
        };
        let lock = root.join(root::LOCK_FILE);
        let _entered = root::enter(root, FlockArg::LockShared)?;
        let lock_is_new = folder::look(&lock)?.is_none();
        let file = verify::open(&path, false)?.ok_or_else(missing)?;
        verify::metas(&path, &file)?;
        let allocated = readers::allocate_table(root);
        if lock_is_new {
            folder::give(&lock, &found)?;
        }
        allocated?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.max_readers(MAX_READERS).max_dbs(schema::DATABASES);
        // SAFETY: its owner changes the file through LMDB only, whose readers' list this
        // environment is entered in; READ_ONLY takes nothing away from that. Opening looks at the
        // meta pages only, which were verified; all else is verified below, before it is read.
        let env = unsafe { options.flags(EnvFlags::READ_ONLY).open(root) }
            .map_err(|e| failure(&format!("opening {} to read", root.display()), &e))?;
        free_dead_readers(&env)?;
        let state = {
            // While this transaction is open no page of its state is used again, nor one of any
            // later state: what is verified cannot change under the eyes of the verifier.
            let _held = begin_to_read(&env)?;
            verify::state(&file).map_err(|damage| verify::refusal(&path, &file, &damage))?
        };
        let (tables, uuid) = schema::open_to_read(&env, root)?;
        identity::check(root, &uuid)?;
        let readers = Readers::open(root)?;
        let reader = Self { env, readers, tables, uuid, root: root.to_owned(), state };
        // Whether the journal can be read.
        reader.view()?;
        Ok(reader)
    }

    /// What was verified when it was opened.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes one state of the store into the empty file at `path`, without the pages that are free. The
    /// copy is a checkpoint of its own: no journal fits it.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let view = self.view()?;
        let told = |e: heed::Error| failure("copying the store", &e);
        let since = schema::last_checkpoint(view.stored().0, &self.tables)?;
        let mut file =
            File::options().read(true).write(true).open(path).map_err(|e| told(e.into()))?;
        self.env.copy_to_file(&mut file, CompactionOption::Enabled).map_err(told)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_SIZE).max_dbs(schema::DATABASES);
        // SAFETY: LMDB wrote the file just now, and its caller owns it: no other process changes it.
        let opened = unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK).open(path) };
        let env = opened.map_err(told)?;
        let (tables, _) = schema::open_to_read(&env, path)?;
        let txn = env.read_txn().map_err(told)?;
        let copied = schema::last_checkpoint(&txn, &tables)?;
        drop(txn);
        // LMDB's copy may be of a newer state: then a checkpoint has taken all that is recent here.
        let recent = if copied.id == since.id { view.recent.clone() } else { Recent::default() };
        let own = LastCheckpoint { id: schema::next_checkpoint(), journal: None };
        commit::write(&env, &tables, &recent, own).map_err(told)?;
        env.prepare_for_closing().wait();
        Ok(())
    }

    /// Reads from one state of the store.
    pub fn read<T>(&self, work: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        work(&Snapshot { view: self.view()? })
    }

    /// LMDB's last state, with what the journal has on top of it. A daemon may append to the journal
    /// and make a checkpoint meanwhile: then it is read again, until both belong together.
    fn view(&self) -> Result<View<'_>> {
        let mut before: Option<(LastCheckpoint, Fault)> = None;
        let mut looks = 0;
        loop {
            // Only what writes is ever refused its environment.
            let txn = begin_to_read(&self.env)?.ok_or_else(refused)?;
            let last = schema::last_checkpoint(&txn, &self.tables)?;
            let expected = Expected { uuid: self.uuid.clone(), last };
            let replayed = replay::read(&self.root, &expected)?;
            // After a checkpoint the journal is written over. Asked is the number that transactions
            // begin with: where the daemon was killed between its meta page and that number, the two
            // differ until the next daemon, and the journal still belongs to the state before.
            let begins_with = self.readers.last_transaction()?;
            if begins_with.unwrap_or(self.last_commit()) != txn.id() as u64 {
                continue;
            }
            let fault = match replayed {
                Ok(replay) => {
                    let recent = Recent::of(&replay.changes);
                    return Ok(View::new(Txn::Read(txn), &self.tables, recent));
                }
                Err(fault) => fault,
            };
            let same = before.as_ref().is_some_and(|(checkpoint, earlier)| {
                *checkpoint == last && replay::persists(earlier, &fault)
            });
            looks = if same { looks + 1 } else { 1 };
            if looks == LOOKS_AT_FAULT {
                return Err(fault.error(&self.root));
            }
            // The daemon may be in the middle of a write of the header.
            std::thread::sleep(LOOK_INTERVAL);
            before = Some((last, fault));
        }
    }

    /// The snapshots that all processes hold, the oldest first.
    pub fn readers(&self) -> Result<Vec<Held>> {
        self.readers.held()
    }

    /// What tells this store from all others, for as long as it lives.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// How large the store is.
    pub fn usage(&self) -> Result<Usage> {
        Usage::measure(&self.root, &self.env, &self.view()?)
    }

    /// The number of the last commit.
    pub fn last_commit(&self) -> u64 {
        self.env.info().last_txn_id as u64
    }
}

/// Takes a snapshot; none of an environment that LMDB refuses since a write failed. When all places
/// for readers are taken, some may be of processes that are gone.
fn begin_to_read(env: &Env<WithoutTls>) -> Result<Option<RoTxn<'_, WithoutTls>>> {
    use heed::MdbError::{Panic, ReadersFull};
    let begun = match env.read_txn() {
        Err(heed::Error::Mdb(ReadersFull)) if free_dead_readers(env)? > 0 => env.read_txn(),
        begun => begun,
    };
    match begun {
        Err(heed::Error::Mdb(Panic)) => Ok(None),
        begun => begun.map(Some).map_err(|e| failure("beginning to read", &e)),
    }
}

/// The last state that was committed; none of an environment that LMDB refuses.
fn view(opened: &Opened) -> Result<Option<View<'_>>> {
    let begin = || Ok(begin_to_read(&opened.env)?.map(|txn| (txn.id() as u64, txn)));
    let limit = opened.shown.begin_snapshot();
    let begun = opened.shown.with(begin)?;
    Ok(begun.map(|(txn, recent)| {
        let closing = Arc::clone(&opened.closing);
        let view = View::new(Txn::Read(txn), &opened.tables, recent);
        view.interrupted_by(closing).with_limit(limit)
    }))
}

/// The same for the writing thread, which waits until no other process writes.
fn view_to_write(opened: &Opened) -> Result<Option<View<'_>>> {
    let txn = match opened.env.write_txn() {
        Ok(txn) => txn,
        Err(heed::Error::Mdb(heed::MdbError::Panic)) => return Ok(None),
        Err(e) => return Err(failure("beginning to write", &e)),
    };
    // Nobody commits while this transaction is open.
    let recent = opened.shown.on((txn.id() as u64).saturating_sub(1));
    Ok(Some(View::new(Txn::Write(txn), &opened.tables, recent)))
}

/// The sentence where LMDB's refusal is passed on.
fn refused() -> Error {
    failure("beginning to read", &heed::Error::Mdb(heed::MdbError::Panic))
}

fn free_dead_readers(env: &Env<WithoutTls>) -> Result<usize> {
    env.clear_stale_readers().map_err(|e| failure("looking for readers that are gone", &e))
}

/// A failure of LMDB as the crate's error. `doing` says what failed, in a few words.
fn failure(doing: &str, error: &heed::Error) -> Error {
    use heed::MdbError::{MapFull, Panic, ReadersFull};
    match error {
        heed::Error::Mdb(MapFull) => Error::ResourceExhausted(format!(
            "{doing}: the store has reached the size of its map; nothing was written"
        )),
        heed::Error::Mdb(ReadersFull) => Error::Unavailable(format!(
            "{doing}: all {MAX_READERS} reader slots are taken; try again"
        )),
        heed::Error::Mdb(Panic) => Error::Unavailable(format!(
            "{doing}: an earlier write to the disk failed and the store is opened again; try again"
        )),
        heed::Error::Io(e) if disk_space::is_full_error(e) => {
            Error::ResourceExhausted(format!("{doing}: the disk is full; nothing was written"))
        }
        other => Error::Internal(format!("{doing}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let missing = Reader::open(dir.path()).unwrap_err();
        assert!(matches!(missing, Error::NotFound(_)), "{missing}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
