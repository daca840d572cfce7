//! Group commit to the journal, and checkpoints into LMDB's file.
//!
//! The committer appends a batch to the journal as one entry. It writes a batch that is too large
//! for an entry to LMDB's file at once. In both cases the batch is on disk when
//! [`Committer::commit`] returns, and readers see it only from then on.
//!
//! **Failures.** A failed journal write may still have reached the disk. So the committer makes a
//! checkpoint before it writes another entry: the new checkpoint's identifier invalidates every
//! existing entry. If LMDB aborts a checkpoint, nothing is lost, because the journal still has the
//! writes. If LMDB cannot tell whether a checkpoint was made, the environment is reopened.

use crate::store::dir::files::JOURNAL_FILE;
use crate::store::schema::checkpoint_id;
use std::fmt;
use std::io;

use heed::{Env, MdbError, WithoutTls};

use crate::model::{Context, Error, Result};
use crate::store::changelog::LogHead;
use crate::store::changelog::keep::{self, LogStep};
use crate::store::dir::disk_space;
use crate::store::dir::root::StoreDir;
use crate::store::engine::log_start::{LogStart, decide};
use crate::store::engine::transaction::BatchChanges;
use crate::store::engine::version::{CurrentVersion, ShownLog};
use crate::store::error::lmdb_error;
use crate::store::journal::Journal;
use crate::store::journal::entry::JournalEntry;
use crate::store::journal::header::Header;
use crate::store::journal::overlay::Overlay;
use crate::store::journal::replay;
use crate::store::read::changelog;
use crate::store::read::view::{Txn, View};
use crate::store::schema::checkpoint_id::Expected;
use crate::store::schema::checkpoint_id::LastCheckpoint;
use crate::store::schema::log_meta::{LogMeta, Retention};
use crate::store::schema::table::Table;
use crate::store::schema::tables::Tables;

/// A checkpoint is due when the overlay holds this many keys, without those of the log. More keys would make a
/// checkpoint longer, and would hardly make checkpoints fewer. Entries of the log do not count: LMDB appends
/// them, several a page, and each came with at least one other key.
const CHECKPOINT_KEYS: usize = 400;

/// Commits for one opening of an environment, on the writing thread.
pub(crate) struct Committer {
    journal: Journal,
    /// A failed write may have left an entry in the journal that must not be replayed.
    tail_uncertain: bool,
    last: LastCheckpoint,
    /// The number of entries since the last checkpoint.
    entries: u32,
    uuid: String,
    /// The ends of the log; `None` while it is off.
    log: Option<LogHead>,
    keep: Retention,
}

/// Why a commit or a checkpoint failed.
pub(crate) enum CommitFailure {
    /// Nothing was written: the journal could not be written.
    Aborted(Error),
    /// Nothing was written: LMDB aborted the transaction.
    Lmdb(heed::Error),
    /// The disk may or may not hold the writes.
    Unknown(String),
    /// The disk may or may not hold the writes, and the environment must be reopened.
    EnvironmentLost(String),
    /// Nothing was written, and the environment must be reopened.
    NotAttempted(String),
}

impl fmt::Display for CommitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted(error) => error.fmt(f),
            Self::Lmdb(error) => error.fmt(f),
            Self::Unknown(why) | Self::EnvironmentLost(why) | Self::NotAttempted(why) => {
                f.write_str(why)
            }
        }
    }
}

impl Committer {
    /// Replays the folder's journal on top of the environment that was opened there. `keep` is how much of
    /// the log is kept: as much as before if `None`. `shown` shows the ends of the log.
    pub(crate) fn open(
        root: &StoreDir,
        env: &Env<WithoutTls>,
        tables: &Tables,
        uuid: &str,
        (keep, shown): (Option<Retention>, ShownLog),
    ) -> Result<(Self, CurrentVersion)> {
        let txn = env.read_txn().map_err(|e| lmdb_error("reading the store", &e))?;
        let last = checkpoint_id::last_checkpoint(&txn, tables)?;
        let expected = Expected { uuid: uuid.to_owned(), last };
        let replay = replay::read(root.path(), &expected)?.map_err(|why| why.error(root.path()))?;
        let path = root.path().join(JOURNAL_FILE);
        let header = Header { checkpoint: last.id, uuid: uuid.to_owned() };
        let journal = Journal::open(root.path(), &header, &replay).map_err(|e| {
            let why = format!("writing {}: {e}", path.display());
            if disk_space::is_full_error(&e) {
                Error::ResourceExhausted(why)
            } else {
                Error::Internal(why)
            }
        })?;
        root.sync()?;
        if !replay.batches.is_empty() {
            log::info!(
                "{} commits are in the journal and not yet in LMDB's file",
                replay.batches.len()
            );
        }
        let overlay = Overlay::replay(&replay.batches);
        let meta = LogMeta::read(&txn, tables).map_err(|e| lmdb_error("reading the log", &e))?;
        let head = changelog::checked_head(&View::new(Txn::Reader(txn), tables, overlay.clone()));
        let version = CurrentVersion::new(env.info().last_txn_id as u64, overlay, shown);
        let entries = replay.batches.len().try_into().unwrap_or(u32::MAX);
        let keep = keep.or(meta.keep).unwrap_or_default();
        let uuid = uuid.to_owned();
        let mut committer =
            Self { journal, tail_uncertain: false, last, entries, uuid, log: None, keep };
        match decide(meta, head, keep) {
            LogStart::Continue(head) => committer.log = head,
            LogStart::Restart(step) => committer
                .restart_log(env, tables, &version, step)
                .or_internal("restarting the log")?,
        }
        version.show_log(committer.log);
        Ok((committer, version))
    }

    /// Starts a new epoch of the log. Its entries stay.
    pub(crate) fn renew_epoch(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
    ) -> Result<(), CommitFailure> {
        let Some(head) = self.log else { return Ok(()) };
        let meta = LogMeta { first: head.first, keep: Some(self.keep), ..LogMeta::new() };
        self.restart_log(env, tables, version, LogStep::Restart { meta, clears: false })
    }

    fn restart_log(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
        step: LogStep,
    ) -> Result<(), CommitFailure> {
        let LogStep::Restart { meta, clears } = step else { return Ok(()) };
        let before = self.log;
        let (last, chain) =
            before.filter(|_| !clears).map_or((0, 0), |head| (head.last, head.chain));
        self.log = meta.epoch.map(|epoch| LogHead { epoch, first: meta.first, last, chain });
        // The entries of the overlay go too, if the log is cleared: they are written before.
        self.write_all(env, tables, version, version.overlay(), step)
            .inspect_err(|_| self.log = before)
    }

    /// Commits the writes of a batch.
    pub(crate) fn commit(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
        BatchChanges { overlay, writes, log }: BatchChanges,
    ) -> Result<(), CommitFailure> {
        if self.tail_uncertain {
            let cleared = self.checkpoint(env, tables, version, version.overlay());
            cleared.map_err(|failed| match failed {
                CommitFailure::EnvironmentLost(why) => CommitFailure::NotAttempted(why),
                failed => failed,
            })?;
        }
        if self.last.journal.is_none() {
            self.require_journal(env, tables, version)?;
        }
        self.begin_journal()?;
        let entry = JournalEntry {
            checkpoint: self.last.id,
            base: Some(env.info().last_txn_id as u64),
            number: self.entries,
            uuid: self.uuid.clone(),
            batch: writes,
        };
        let Some(entry) = entry.encode().filter(|_| self.journal.has_room()) else {
            let before = self.log;
            self.advance_log(log);
            let written = self.checkpoint(env, tables, version, overlay);
            return written.inspect_err(|_| self.log = before);
        };
        if let Err(e) = self.journal.append(&entry) {
            self.tail_uncertain = true;
            return Err(match self.checkpoint(env, tables, version, version.overlay()) {
                Ok(()) => not_written(&e),
                Err(CommitFailure::EnvironmentLost(also)) => {
                    CommitFailure::EnvironmentLost(format!("writing the journal: {e}; {also}"))
                }
                Err(also) => CommitFailure::Unknown(format!(
                    "writing the journal: {e}; a checkpoint: {also}"
                )),
            });
        }
        self.entries = self.entries.saturating_add(1);
        version.publish(overlay);
        self.advance_log(log);
        version.show_log(self.log);
        Ok(())
    }

    /// Moves the end of the log to that of `to`.
    fn advance_log(&mut self, to: Option<LogHead>) {
        if let (Some(log), Some(to)) = (&mut self.log, to) {
            (log.last, log.chain) = (to.last, to.chain);
        }
    }

    /// Records in LMDB's file that the store needs its journal, before the first entry of the journal: a
    /// store that is only opened is not written. If the disk is full, the next checkpoint records it.
    fn require_journal(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
    ) -> Result<(), CommitFailure> {
        self.begin_journal()?;
        let step = (self.journal.checkpoint(), LogStep::Prune(self.keep));
        match self.write(env, tables, version, version.overlay(), step) {
            Ok(()) => Ok(()),
            Err(CommitFailure::EnvironmentLost(why)) => Err(CommitFailure::NotAttempted(why)),
            Err(failed) => {
                log::debug!("recording that the store needs its journal: {failed}");
                Ok(())
            }
        }
    }

    /// Makes the journal's header name the last checkpoint. Nothing may be committed before the header on
    /// disk names it.
    fn begin_journal(&mut self) -> Result<(), CommitFailure> {
        if self.journal.checkpoint() == Some(self.last.id) {
            return Ok(());
        }
        let header = Header { checkpoint: self.last.id, uuid: self.uuid.clone() };
        self.journal.begin(&header).map_err(|e| not_written(&e))
    }

    /// Closes the store cleanly: LMDB's file needs no journal from then on. If closing fails, LMDB's
    /// file needs the journal as before.
    pub(crate) fn close(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
    ) -> Result<(), CommitFailure> {
        self.checkpoint(env, tables, version, version.overlay())?;
        if self.last.journal.is_none() {
            return Ok(());
        }
        self.begin_journal()?;
        self.write(env, tables, version, Overlay::default(), (None, LogStep::None))
    }

    /// Whether a checkpoint would write anything.
    pub(crate) fn has_uncheckpointed(&self, version: &CurrentVersion) -> bool {
        self.tail_uncertain || !version.overlay().is_empty()
    }

    /// Whether a checkpoint is due before the next batch.
    pub(crate) fn checkpoint_due(&self, version: &CurrentVersion) -> bool {
        self.tail_uncertain
            || !self.journal.has_room()
            || version.overlay().scattered() >= CHECKPOINT_KEYS
    }

    /// Writes `overlay`, which includes all published writes, to LMDB's file, and restarts the journal.
    pub(crate) fn checkpoint(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
        overlay: Overlay,
    ) -> Result<(), CommitFailure> {
        if overlay.is_empty() && !self.tail_uncertain {
            return Ok(());
        }
        self.write_all(env, tables, version, overlay, LogStep::Prune(self.keep))
    }

    /// As `write_checkpoint`, even if `overlay` is empty.
    fn write_all(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
        overlay: Overlay,
        log: LogStep,
    ) -> Result<(), CommitFailure> {
        // The header is uncertain only while the overlay is empty: no entry follows such a header.
        if self.journal.checkpoint().is_none() {
            self.begin_journal()?;
        }
        self.write(env, tables, version, overlay, (self.journal.checkpoint(), log))?;
        if let Err(failed) = self.begin_journal() {
            log::warn!("restarting the journal: {failed}; the next write tries again");
        }
        Ok(())
    }

    /// Makes a checkpoint in LMDB's file; `journal` is the checkpoint that the journal's header names.
    fn write(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        version: &CurrentVersion,
        overlay: Overlay,
        (journal, log): (Option<u64>, LogStep),
    ) -> Result<(), CommitFailure> {
        let next = LastCheckpoint { id: checkpoint_id::next_checkpoint(), journal };
        version.wait_for_snapshots();
        version.checkpoint_started(&overlay);
        let written = write_checkpoint(env, tables, &overlay, next, log);
        version.checkpoint_finished(written.is_ok().then(|| env.info().last_txn_id as u64));
        match written {
            Ok(meta) => {
                (self.last, self.entries, self.tail_uncertain) = (next, 0, false);
                if let Some(log) = &mut self.log {
                    log.first = meta.first;
                }
                version.show_log(self.log);
                Ok(())
            }
            // After a failed write of a meta page LMDB cannot tell whether the transaction is on disk,
            // and refuses the environment.
            Err(e) if is_broken(env) => Err(CommitFailure::EnvironmentLost(e.to_string())),
            Err(e) => Err(CommitFailure::Lmdb(e)),
        }
    }
}

/// Whether LMDB refuses the environment because a write of a meta page failed.
fn is_broken(env: &Env<WithoutTls>) -> bool {
    matches!(env.write_txn(), Err(heed::Error::Mdb(MdbError::Panic)))
}

fn not_written(e: &io::Error) -> CommitFailure {
    CommitFailure::Aborted(if disk_space::is_full_error(e) {
        Error::ResourceExhausted("the disk is full; nothing was written".into())
    } else {
        Error::Internal(format!("writing the journal: {e}; nothing was written"))
    })
}

/// Writes `overlay` to LMDB's file in one transaction, as the checkpoint `checkpoint`. Returns what
/// `meta` says of the log then.
pub(crate) fn write_checkpoint(
    env: &Env<WithoutTls>,
    tables: &Tables,
    overlay: &Overlay,
    checkpoint: LastCheckpoint,
    log: LogStep,
) -> heed::Result<LogMeta> {
    let mut txn = env.write_txn()?;
    for (table, key, value) in overlay.writes().filter(|(table, _, _)| *table != Table::Log) {
        match value {
            Some(value) => tables.get(table).put(&mut txn, key, value)?,
            None => drop(tables.get(table).delete(&mut txn, key)?),
        }
    }
    let entries = overlay.range_from(Table::Log, b"").into_iter().flatten();
    let entries = entries.filter_map(|(key, value)| Some((key, value?)));
    let added = keep::append(&mut txn, tables, entries)?;
    let meta = keep::apply(&mut txn, tables, log, added)?;
    checkpoint_id::put_checkpoint(&mut txn, tables, checkpoint)?;
    txn.commit().map(|()| meta)
}

#[cfg(test)]
mod tests;
