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

/// The most entries that a checkpoint removes when it adds few. Otherwise it removes at most twice as many as
/// it adds.
const MAX_PRUNED: usize = 512;

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
) -> heed::Result<usize> {
    let last = tables.log.last(txn)?.map(|(key, _)| key.to_vec());
    let mut count = 0;
    for (key, value) in entries {
        // LMDB fills pages that are appended to, and splits others.
        let flags = if last.as_deref().is_none_or(|last| last < key) {
            PutFlags::APPEND
        } else {
            PutFlags::empty()
        };
        tables.log.put_with_flags(txn, flags, key, value)?;
        count += 1;
    }
    Ok(count)
}

/// Takes the step, in a checkpoint that has added `added` entries. Returns the new fields of `meta`.
pub(crate) fn apply(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    step: LogStep,
    added: usize,
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
            for _ in 0..MAX_PRUNED.max(added.saturating_mul(2)) {
                let Some(oldest) = excess(txn, tables, keep)? else { break };
                tables.log.delete(txn, &oldest)?;
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

/// The key of the oldest entry, if it must be removed.
fn excess(txn: &RoTxn<'_>, tables: &Tables, keep: Retention) -> heed::Result<Option<Vec<u8>>> {
    let stat = tables.log.stat(txn)?;
    // The newest entry marks the end of the log.
    if stat.entries < 2 {
        return Ok(None);
    }
    let Some((key, value)) = tables.log.first(txn)? else { return Ok(None) };
    let is_old = |age| value::decode(key, value).is_ok_and(|entry| entry_age(entry) > age);
    Ok((bytes(&stat) > keep.bytes || keep.age.is_some_and(is_old)).then(|| key.to_vec()))
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
