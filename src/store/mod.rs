//! The store: records of containerd in one LMDB environment.
//!
//! - [`schema`]: what lies where, drawn as a tree, and its version
//! - [`value`]: the header and checksum around every record
//! - [`verify`]: what is checked of a file before LMDB maps it, by a reader of our own
//! - [`root`]: the folder, who owns it; [`folder`], [`filesystem`]: who may change it, where it lies
//! - `environment`: LMDB's environment, opened again after its disk failed; `settle`: what must be
//!   on disk before the first write
//! - [`records`]: reading and changing records inside a transaction; [`walk`]: in their order
//! - [`readers`]: who holds which snapshot, in all processes; [`usage`]: how large the store is
//! - [`indexes`]: what is kept beside the records, so that filters need not read them all
//! - [`search`]: finding the images that a plan asks for
//! - [`migrate`]: bringing a store of an older version to this one
//! - [`inspect`]: every record, for `check`; [`salvage`]: out of a damaged file, without LMDB
//! - [`writer`]: the one thread that writes, and commits what waits together
//!
//! Synchronous. It knows names and bytes; what a request means is `service`'s. This is the only
//! module that names heed, and the only one with `unsafe`.

mod environment;
pub mod filesystem;
pub mod folder;
pub mod indexes;
pub mod inspect;
pub mod migrate;
pub mod readers;
pub mod records;
pub mod root;
pub mod salvage;
pub mod schema;
pub mod search;
mod settle;
pub mod usage;
pub mod value;
pub mod verify;
pub mod walk;
pub mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heed::{CompactionOption, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};
use nix::fcntl::FlockArg;

use crate::model::{Error, Result};
use environment::Environment;
use readers::{Held, Readers};
pub use records::{Change, Records, Snapshot};
use root::Root;
pub use schema::Kind;
use schema::Tables;
use usage::Usage;
use verify::state::State;
pub use walk::Entry;
use writer::Writer;

/// Readers at one time, of all processes together. A daemon needs a few; an admin's command one.
pub const MAX_READERS: u32 = 512;

/// Address space that is reserved for the map. It costs neither memory nor disk.
const MAP_SIZE: usize = 1 << 40;

/// The smallest map that is worth starting with, when the address space is limited.
const MIN_MAP_SIZE: usize = 16 << 20;

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
            if let Some(txn) = begin_to_read(&opened.env)? {
                return work(&Snapshot::new(txn, &opened.tables));
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
        let txn = begin_or_refuse(&opened.env)?;
        Usage::measure(self.root(), &opened.env, &opened.tables, &txn)
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
        let found = folder::look(&path)?.filter(|found| found.len() > 0).ok_or_else(missing)?;
        let lock = root.join("lock.mdb");
        let _entered = root::enter(root, FlockArg::LockShared)?;
        let lock_is_new = folder::look(&lock)?.is_none();
        let file = verify::open(&path, false)?.ok_or_else(missing)?;
        verify::metas(&path, &file)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.max_readers(MAX_READERS).max_dbs(schema::DATABASES);
        // SAFETY: its owner changes the file through LMDB only, whose readers' list this
        // environment is entered in; READ_ONLY takes nothing away from that. Opening looks at the
        // meta pages only, which were verified; all else is verified below, before it is read.
        let env = unsafe { options.flags(EnvFlags::READ_ONLY).open(root) }
            .map_err(|e| failure(&format!("opening {} to read", root.display()), &e))?;
        if lock_is_new {
            folder::give(&lock, &found)?;
        }
        free_dead_readers(&env)?;
        let state = {
            // While this transaction is open no page of its state is used again, nor one of any
            // later state: what is verified cannot change under the eyes of the verifier.
            let _held = begin_to_read(&env)?;
            verify::state(&file).map_err(|damage| verify::refusal(&path, &file, &damage))?
        };
        let (tables, uuid) = schema::open_to_read(&env, root)?;
        let readers = Readers::open(root)?;
        Ok(Self { env, readers, tables, uuid, root: root.to_owned(), state })
    }

    /// What was verified when it was opened.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes one state of the store into an empty file, without the pages that are free.
    pub fn copy_to(&self, file: &mut File) -> Result<()> {
        let copied = self.env.copy_to_file(file, CompactionOption::Enabled);
        copied.map_err(|e| failure("copying the store", &e))
    }

    /// Reads from one state of the store.
    pub fn read<T>(&self, work: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        // Only what writes is ever refused its environment.
        work(&Snapshot::new(begin_or_refuse(&self.env)?, &self.tables))
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
        Usage::measure(&self.root, &self.env, &self.tables, &begin_or_refuse(&self.env)?)
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

/// The same where a refusal is passed on.
fn begin_or_refuse(env: &Env<WithoutTls>) -> Result<RoTxn<'_, WithoutTls>> {
    let refused = || failure("beginning to read", &heed::Error::Mdb(heed::MdbError::Panic));
    begin_to_read(env)?.ok_or_else(refused)
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
        heed::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
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
