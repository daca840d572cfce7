//! An open LMDB environment with what belongs to one opening of it: committer, version, tables.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use heed::{Env, WithoutTls};
use parking_lot::{Mutex, MutexGuard};

use crate::model::{Error, Result};
use crate::store::dir::root::StoreDir;
use crate::store::dir::store_id;
use crate::store::engine::committer::{CommitFailure, Committer};
use crate::store::engine::transaction::BatchChanges;
use crate::store::engine::version::{CurrentVersion, KnownLog, ShownLog};
use crate::store::error::lmdb_error;
use crate::store::journal::entry::WriteBatch;
use crate::store::journal::replay;
use crate::store::lmdb::open::{begin_to_read, map};
use crate::store::read::view::{Txn, View};
use crate::store::recovery::{meta_sync, verify};
use crate::store::schema::databases;
use crate::store::schema::log_meta::Retention;
use crate::store::schema::table::OwnedOp;
use crate::store::schema::tables::Tables;

/// An open environment. It is closed when its last `Arc` is dropped, so no holder may keep one longer
/// than a transaction takes.
pub(crate) struct OpenEnvironment {
    committer: Mutex<Committer>,
    pub(crate) version: CurrentVersion,
    pub(crate) env: Env<WithoutTls>,
    pub(crate) tables: Tables,
    /// Counts how often the environment was opened.
    pub(crate) number: u64,
    /// Set when the environment must be closed: long reads end with an error then.
    pub(crate) closing: Arc<AtomicBool>,
}

impl OpenEnvironment {
    /// Commits the writes of a batch.
    pub(crate) fn commit(&self, changes: BatchChanges) -> Result<(), CommitFailure> {
        self.committer().commit(&self.env, &self.tables, &self.version, changes)
    }

    /// Starts a new epoch of the log.
    pub(crate) fn renew_epoch(&self) -> Result<(), CommitFailure> {
        self.committer().renew_epoch(&self.env, &self.tables, &self.version)
    }

    /// Writes the overlay to LMDB's file.
    pub(crate) fn checkpoint(&self) -> Result<(), CommitFailure> {
        let overlay = self.version.overlay();
        self.committer().checkpoint(&self.env, &self.tables, &self.version, overlay)
    }

    /// Writes the overlay to LMDB's file, which needs no journal from then on.
    pub(crate) fn close(&self) -> Result<(), CommitFailure> {
        self.committer().close(&self.env, &self.tables, &self.version)
    }

    /// Whether a checkpoint would write anything.
    pub(crate) fn has_uncheckpointed(&self) -> bool {
        self.committer().has_uncheckpointed(&self.version)
    }

    /// Whether a checkpoint is due before the next batch.
    pub(crate) fn checkpoint_due(&self) -> bool {
        self.committer().checkpoint_due(&self.version)
    }

    // Uncontended: almost all calls come from the writer thread.
    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock()
    }
}

/// Verifies the data file, makes its meta pages durable and opens the environment for the `number`th
/// time. Returns the store's UUID too.
pub(crate) fn open(
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

/// The view of the writer thread, and the ends of the log in it; `None` if LMDB refuses the environment. Waits
/// until no other process writes.
pub(crate) fn view_to_write(opened: &OpenEnvironment) -> Result<Option<(View<'_>, KnownLog)>> {
    let txn = match opened.env.write_txn() {
        Ok(txn) => txn,
        Err(heed::Error::Mdb(heed::MdbError::Panic)) => return Ok(None),
        Err(e) => return Err(lmdb_error("beginning to write", &e)),
    };
    // No other transaction commits while this one is open.
    let (overlay, log) = opened.version.pin_for_write((txn.id() as u64).saturating_sub(1));
    Ok(Some((View::new(Txn::Writer(txn), &opened.tables, overlay), log)))
}
