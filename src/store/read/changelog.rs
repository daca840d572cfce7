//! Reading the log.

use crate::model::{Error, Result};
use crate::store::Snapshot;
use crate::store::changelog::{LogHead, entry, keep};
use crate::store::error::lmdb_error;
use crate::store::read::state::damaged;
use crate::store::read::view::{Pair, View};
use crate::store::schema::log_meta::LogMeta;
use crate::store::schema::table::Table;
use crate::store::schema::value;

/// An entry, copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    /// The number.
    pub(crate) seq: u64,
    /// The number of the last entry of the same commit.
    pub(crate) commit_last: u64,
    /// The encoded `Change`.
    pub(crate) bytes: Vec<u8>,
}

/// Consecutive entries, and the ends of the log at the time of the read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogPage {
    /// The ends of the log; `None` while it is off.
    pub(crate) head: Option<LogHead>,
    /// The entries.
    pub(crate) entries: Vec<LogEntry>,
}

impl Snapshot<'_> {
    /// The ends of the log in this state; `None` while it is off.
    pub fn log_head(&self) -> Result<Option<LogHead>> {
        head(&self.view)
    }

    /// Calls `visit` with the entries from the number `from` on, each with its number, until it returns `false`.
    pub fn for_each_entry(
        &self,
        from: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        for pair in self.view.range_from(Table::Log, &from.to_be_bytes())? {
            let (seq, entry) = unsealed(pair?)?;
            if !visit(seq, entry)? {
                break;
            }
        }
        Ok(())
    }

    /// The entries from the number `from` on: at least one if there is one, and then as many as have `max_bytes`
    /// bytes together. The entries of one commit (`commit_last`) are never split, however many bytes they have.
    pub(crate) fn log_page(&self, from: u64, max_bytes: usize) -> Result<LogPage> {
        let head = self.log_head()?;
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        let mut visit = |seq, entry: &[u8]| {
            let position = entry::position(entry).ok_or_else(|| no_entry(seq))?;
            bytes = bytes.saturating_add(entry.len());
            let is_whole = position.commit_last <= seq;
            entries.push(LogEntry {
                seq,
                commit_last: position.commit_last,
                bytes: entry.to_vec(),
            });
            Ok(bytes < max_bytes || !is_whole)
        };
        if head.is_some() {
            self.for_each_entry(from, &mut visit)?;
        }
        Ok(LogPage { head, entries })
    }

    /// The bytes of the data file that the log takes, and the age of its oldest entry.
    pub(crate) fn log_size(&self) -> Result<(u64, Option<std::time::Duration>)> {
        let (txn, tables) = self.view.base();
        let stat = tables.log.stat(txn).map_err(read_error)?;
        let oldest = self.view.range_from(Table::Log, b"")?.next().transpose()?;
        let age = oldest.map(unsealed).transpose()?.map(|(_, entry)| keep::entry_age(entry));
        Ok((keep::bytes(&stat), age))
    }
}

/// The ends of the log in a state; `None` while it is off.
pub(crate) fn head(view: &View<'_>) -> Result<Option<LogHead>> {
    let (txn, tables) = view.base();
    let meta = LogMeta::read(txn, tables).map_err(read_error)?;
    let Some(epoch) = meta.epoch else { return Ok(None) };
    let (last, chain) = match last(view)? {
        Some(pair) => {
            let (seq, entry) = unsealed(pair)?;
            (seq, entry::position(entry).ok_or_else(|| no_entry(seq))?.chain)
        }
        // The newest entry is never removed.
        None => (meta.first.saturating_sub(1), 0),
    };
    Ok(Some(LogHead { epoch, first: meta.first, last, chain }))
}

/// As [`head`], and checks that the overlay continues LMDB's log and that the newest entry is whole.
pub(crate) fn checked_head(view: &View<'_>) -> Result<Option<LogHead>> {
    let Some(found) = head(view)? else { return Ok(None) };
    let (txn, tables) = view.base();
    let stored = tables.log.last(txn).map_err(read_error)?.map(unsealed).transpose()?;
    let mut before = match stored {
        Some((seq, entry)) => {
            Some((seq, entry::position(entry).ok_or_else(|| no_entry(seq))?.chain))
        }
        None => (found.first == 1).then_some((0, 0)),
    };
    for (key, value) in view.overlay.range_from(Table::Log, b"").into_iter().flatten() {
        let (seq, entry) = unsealed((key, value.unwrap_or_default()))?;
        let fits = before.is_some_and(|(last, chain)| {
            seq == last.saturating_add(1) && entry::follows(entry, chain)
        });
        if !fits {
            return Err(Error::DataLoss(format!(
                "entry {seq} of the log does not follow the one before"
            )));
        }
        before = entry::position(entry).map(|position| (seq, position.chain));
    }
    Ok(Some(found))
}

fn last<'v>(view: &'v View<'_>) -> Result<Option<Pair<'v>>> {
    let (txn, tables) = view.base();
    match view.overlay.last_log_entry() {
        Some(recent) => Ok(Some(recent)),
        None => tables.log.last(txn).map_err(read_error),
    }
}

fn unsealed<'v>((key, value): Pair<'v>) -> Result<(u64, &'v [u8])> {
    let seq = keep::seq(key).ok_or_else(|| damaged("a key of the log"))?;
    let entry =
        value::decode(key, value).map_err(|_| damaged(&format!("entry {seq} of the log")))?;
    Ok((seq, entry))
}

fn no_entry(seq: u64) -> Error {
    Error::DataLoss(format!("entry {seq} of the log is none"))
}

fn read_error(e: heed::Error) -> Error {
    lmdb_error("reading the log", &e)
}
