//! A store that is only read, beside the daemon that owns it or without one.

use crate::store::dir::files::{DATA_FILE, LOCK_FILE};
use crate::store::schema::checkpoint_id;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heed::{CompactionOption, Env, EnvFlags, EnvOpenOptions, WithoutTls};
use lmdb_verify::State;
use nix::fcntl::FlockArg;

use super::bounds::MAX_READERS;
use super::changelog::keep::LogStep;
use super::dir::{permissions, root, store_id};
use super::engine::committer;
use super::error::{environment_lost_error, lmdb_error};
use super::journal::overlay::Overlay;
use super::journal::replay::{self, JournalFault};
use super::lmdb::open::{begin_to_read, free_dead_readers, with_largest_map};
use super::lmdb::reader_table::{self, HeldSnapshot, ReaderTable};
use super::read::records::Snapshot;
use super::read::usage::Usage;
use super::read::view::{Txn, View};
use super::recovery::verify;
use super::schema::checkpoint_id::Expected;
use super::schema::checkpoint_id::LastCheckpoint;
use super::schema::databases;
use super::schema::tables::Tables;
use crate::model::{Error, Result};

/// A journal counts as damaged when a reader beside the daemon finds the same fault in this number of reads, with no
/// checkpoint in between.
const MAX_FAULT_READS: u32 = 10;

/// The time between two such reads.
const FAULT_READ_INTERVAL: Duration = Duration::from_millis(2);

/// A store that is only read, beside the daemon that owns it or without one.
#[derive(Debug)]
pub struct ReadOnlyStore {
    env: Env<WithoutTls>,
    // After the environment: see `readers`.
    readers: ReaderTable,
    tables: Tables,
    uuid: String,
    root: PathBuf,
    state: State,
}

impl ReadOnlyStore {
    /// Opens the store in the folder `root`, which must exist. Changes nothing in the folder except LMDB's reader
    /// table.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join(DATA_FILE);
        let missing = || {
            Error::not_found(format_args!(
                "there is no store in {}: name its folder with --root, or make one with `serve` or `import`",
                root.display()
            ))
        };
        let found = match permissions::stat_regular(&path)?.filter(|found| found.len() > 0) {
            Some(found) => found,
            None => {
                store_id::check_without_data(root)?;
                return Err(missing());
            }
        };
        let lock = root.join(LOCK_FILE);
        let _entered = root::lock_files(root, FlockArg::LockShared)?;
        let lock_is_new = permissions::stat_regular(&lock)?.is_none();
        let file = permissions::open_regular(&path, false)?.ok_or_else(missing)?;
        verify::metas(&path, &file)?;
        let allocated = reader_table::allocate_table(root);
        if lock_is_new {
            permissions::chown_like(&lock, &found)?;
        }
        allocated?;
        let opened = with_largest_map(|size| {
            let mut options = EnvOpenOptions::new().read_txn_without_tls();
            options.map_size(size).max_readers(MAX_READERS).max_dbs(databases::MAX_DATABASES);
            // SAFETY: the owner changes the file only through LMDB, and this environment is in LMDB's reader
            // table, also with READ_ONLY. Opening reads only the meta pages, which were verified. All other
            // pages are verified below, before they are read.
            unsafe { options.flags(EnvFlags::READ_ONLY).open(root) }
        });
        let (env, _) =
            opened.map_err(|e| lmdb_error(&format!("opening {} to read", root.display()), &e))?;
        free_dead_readers(&env)?;
        let state = {
            // While this transaction is open, LMDB reuses no page of its state or of a later one. So the
            // verified pages do not change during the verification.
            let _snapshot = begin_to_read(&env)?;
            let state = verify::state(&file)
                .map_err(|damage| verify::damage_error(&path, &file, &damage))?;
            // The last meta page of a killed daemon may be only in the page cache. A running daemon syncs it
            // before a reader can use it.
            permissions::sync_read(&path, &file)?;
            state
        };
        let (tables, uuid) = databases::open_to_read(&env, root)?;
        store_id::check(root, &uuid)?;
        let readers = ReaderTable::open(root)?;
        let reader = Self { env, readers, tables, uuid, root: root.to_owned(), state };
        // Whether the journal can be read.
        reader.view()?;
        Ok(reader)
    }

    /// The result of the verification when the store was opened.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes one state of the store into the empty file at `path`, without free pages. The copy has a new
    /// checkpoint identifier, so no journal belongs to it.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<()> {
        let view = self.view()?;
        let to_error = |e: heed::Error| lmdb_error("copying the store", &e);
        let since = checkpoint_id::last_checkpoint(view.base().0, &self.tables)?;
        let mut file =
            File::options().read(true).write(true).open(path).map_err(|e| to_error(e.into()))?;
        self.env.copy_to_file(&mut file, CompactionOption::Enabled).map_err(to_error)?;
        let opened = with_largest_map(|size| {
            let mut options = EnvOpenOptions::new().read_txn_without_tls();
            options.map_size(size).max_dbs(databases::MAX_DATABASES);
            // SAFETY: LMDB wrote the file just now, and its caller owns it: no other process changes it.
            unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK).open(path) }
        });
        let (env, _) = opened.map_err(to_error)?;
        let (tables, _) = databases::open_to_read(&env, path)?;
        let txn = env.read_txn().map_err(to_error)?;
        let copied = checkpoint_id::last_checkpoint(&txn, &tables)?;
        drop(txn);
        // LMDB's copy may be of a later checkpoint, which includes the whole overlay.
        let overlay = if copied.id == since.id { view.overlay.clone() } else { Overlay::default() };
        let own = LastCheckpoint { id: checkpoint_id::next_checkpoint(), journal: None };
        committer::write_checkpoint(&env, &tables, &overlay, own, LogStep::None)
            .map_err(to_error)?;
        env.prepare_for_closing().wait();
        Ok(())
    }

    /// Reads from one state of the store.
    pub fn read<T>(&self, work: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        work(&Snapshot { view: self.view()? })
    }

    /// LMDB's last state, with the changes of the journal on top of it. A daemon may append to the journal and make
    /// a checkpoint meanwhile. Then this function reads both again, until they belong together.
    fn view(&self) -> Result<View<'_>> {
        let mut before: Option<(LastCheckpoint, JournalFault)> = None;
        let mut reads = 0;
        loop {
            // LMDB refuses an environment only after a failed write.
            let txn = begin_to_read(&self.env)?.ok_or_else(environment_lost_error)?;
            let last = checkpoint_id::last_checkpoint(&txn, &self.tables)?;
            let expected = Expected { uuid: self.uuid.clone(), last };
            let replayed = replay::read_and_sync(&self.root, &expected)?;
            // A checkpoint overwrites the journal. Compare with the number that transactions begin with: if the
            // daemon was killed after it wrote its meta page and before it wrote that number, the two differ
            // until the next daemon starts, and the journal still belongs to the state before.
            let begins_with = self.readers.last_transaction()?;
            if begins_with.unwrap_or(self.last_commit()) != txn.id() as u64 {
                continue;
            }
            let fault = match replayed {
                Ok(replay) => {
                    let recent = Overlay::replay(&replay.batches);
                    return Ok(View::new(Txn::Reader(txn), &self.tables, recent));
                }
                Err(fault) => fault,
            };
            let same = before.as_ref().is_some_and(|(checkpoint, earlier)| {
                *checkpoint == last && replay::persists(earlier, &fault)
            });
            reads = if same { reads + 1 } else { 1 };
            if reads == MAX_FAULT_READS {
                return Err(fault.error(&self.root));
            }
            // The daemon may be in the middle of a write of the header.
            std::thread::sleep(FAULT_READ_INTERVAL);
            before = Some((last, fault));
        }
    }

    /// The snapshots that all processes hold, the oldest first.
    pub fn readers(&self) -> Result<Vec<HeldSnapshot>> {
        self.readers.held()
    }

    /// The UUID of this store, which stays the same as long as the store exists.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The size of the store.
    pub fn usage(&self) -> Result<Usage> {
        Usage::measure(&self.root, &self.env, &self.view()?)
    }

    /// The number of the last commit.
    pub fn last_commit(&self) -> u64 {
        self.env.info().last_txn_id as u64
    }
}
