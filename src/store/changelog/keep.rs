//! The log in a checkpoint: the checkpoint adds the new entries and removes old ones.
//!
//! Checkpoints remove old entries, so that no change takes time for this. A checkpoint removes some hundred entries
//! at a time, so that it does not take long. Readers copy entries, so they never delay a removal.

use std::time::Duration;

use heed::{PutFlags, RoTxn, RwTxn};

use crate::clock;
use crate::store::changelog::entry;
use crate::store::schema::log_meta::{LogMeta, Retention};
use crate::store::schema::tables::Tables;
use crate::store::schema::value;

/// The most entries that a checkpoint removes when it adds little. Otherwise it removes at most twice as many
/// entries, or twice as many bytes, as it adds: so large entries that follow many small ones do not make the
/// log longer than it may be.
const MAX_PRUNED: usize = 512;

/// The changes that a checkpoint has added to the log.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Added {
    entries: usize,
    bytes: usize,
}

/// The step that a checkpoint takes with the log, in addition to adding entries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogStep {
    /// No step.
    None,
    /// Removes old entries.
    Prune(Retention),
    /// Starts a new log, or a new epoch.
    Restart {
        /// The new fields of `meta`.
        meta: LogMeta,
        /// Whether all entries are removed.
        clears: bool,
    },
}

/// Adds entries, in order.
pub(crate) fn append<'o>(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    entries: impl Iterator<Item = (&'o [u8], &'o [u8])>,
) -> heed::Result<Added> {
    let last = tables.log.last(txn)?.map(|(key, _)| key.to_vec());
    let mut added = Added::default();
    for (key, value) in entries {
        // LMDB fills pages that are appended to, and splits others.
        let flags = if last.as_deref().is_none_or(|last| last < key) {
            PutFlags::APPEND
        } else {
            PutFlags::empty()
        };
        tables.log.put_with_flags(txn, flags, key, value)?;
        added.entries += 1;
        added.bytes += key.len() + value.len();
    }
    Ok(added)
}

/// Takes the step, in a checkpoint that has added `added`. Returns the new fields of `meta`.
pub(crate) fn apply(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    step: LogStep,
    added: Added,
) -> heed::Result<LogMeta> {
    let mut meta = LogMeta::read(txn, tables)?;
    match step {
        LogStep::None => return Ok(meta),
        LogStep::Restart { meta: new, clears } => {
            if clears {
                tables.log.clear(txn)?;
            }
            meta = new;
        }
        LogStep::Prune(keep) if meta.epoch.is_some() => {
            let max_entries = MAX_PRUNED.max(added.entries.saturating_mul(2));
            let max_bytes = added.bytes.saturating_mul(2);
            let mut removed = Added::default();
            while removed.entries < max_entries || removed.bytes < max_bytes {
                let Some((oldest, bytes)) = excess(txn, tables, keep)? else { break };
                tables.log.delete(txn, &oldest)?;
                removed.entries += 1;
                removed.bytes += bytes;
            }
            meta.keep = Some(keep);
            if let Some(first) = tables.log.first(txn)?.and_then(|(key, _)| seq(key)) {
                meta.first = first;
            }
        }
        LogStep::Prune(_) => {}
    }
    meta.write(txn, tables.meta)?;
    Ok(meta)
}

/// The key of the oldest entry and its size in bytes, if it must be removed.
fn excess(
    txn: &RoTxn<'_>,
    tables: &Tables,
    keep: Retention,
) -> heed::Result<Option<(Vec<u8>, usize)>> {
    let stat = tables.log.stat(txn)?;
    // The newest entry marks the end of the log.
    if stat.entries < 2 {
        return Ok(None);
    }
    let Some((key, value)) = tables.log.first(txn)? else { return Ok(None) };
    let is_old = |age| value::decode(key, value).is_ok_and(|entry| entry_age(entry) > age);
    let is_excess = bytes(&stat) > keep.bytes || keep.age.is_some_and(is_old);
    Ok(is_excess.then(|| (key.to_vec(), key.len() + value.len())))
}

/// The bytes of the data file that a database takes.
pub(crate) fn bytes(stat: &heed::DatabaseStat) -> u64 {
    let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
    pages as u64 * u64::from(stat.page_size)
}

/// The age of an entry; zero if its time is in the future, or if it cannot be decoded.
pub(crate) fn entry_age(entry: &[u8]) -> Duration {
    let Some(change) = entry::decode(entry) else { return Duration::ZERO };
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let now = clock::now();
    let age = nanos(now.seconds, now.nanos.into())
        .saturating_sub(nanos(change.time.seconds, change.time.nanos.into()));
    Duration::from_nanos(u64::try_from(age.max(0)).unwrap_or(u64::MAX))
}

/// The number of an entry, by its key.
pub(crate) fn seq(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}
