//! `lmdb-images recover`: saves the readable records of a damaged store into a fresh store.
//!
//! [`salvage()`] finds the records, the most certain ones first, and recovery keeps the first record that
//! it finds for a key. Then recovery applies the changes that only the journal has ([`journal`]). Recovery
//! writes the fresh store through the writer thread, so the fresh store has its index. Once the fresh data
//! file is complete and on disk, it replaces the damaged data file. The damaged file is kept under another
//! name.
//!
//! **Promise.** Each record in the fresh store is the newest version that a client got an answer for, or
//! [`RecoveryReport`] names the record as perhaps old. The report also names the records that are known to be lost.

mod journal;
mod report;

use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use super::record::{self, Record};
use super::restore::{backup_name, stop_daemon_hint};
use super::{check, progress};
use crate::api::namespace::Namespace as NamespaceRecord;
use crate::model::{Error, Result};
use crate::service::codec::encode;
use crate::store::dir::root::StoreDir;
use crate::store::dir::scratch::ScratchFolder;
use crate::store::dir::{permissions, store_id};
use crate::store::journal::replay::{self, ReadableJournal};
use crate::store::recovery::salvage::{Findings, Origin, SavedRecord, salvage};
use crate::store::schema::table::Table;
use crate::store::{Records, Store, Transaction};
use journal::JournalReplay;
pub use report::{RecoveryReport, SavedCounts};

/// Number of records that one transaction writes.
const MAX_BATCH_RECORDS: usize = 256;

/// The remains of the damaged store.
struct Source {
    /// The data file; `None` if it is missing or empty.
    file: Option<File>,
    journal: ReadableJournal,
    /// UUID of the store, as recorded in a file of its folder.
    recorded_uuid: Option<String>,
}

impl Source {
    fn open(root: &Path) -> Result<Self> {
        let journal = replay::read_damaged(root)?;
        let path = root.join(DATA_FILE);
        let has_content = permissions::stat_regular(&path)?.is_some_and(|found| found.len() > 0);
        let file = if has_content { permissions::open_regular(&path, false)? } else { None };
        if file.is_none() && journal.entries.is_empty() {
            return Err(match store_id::read(root)? {
                None => no_store(root),
                Some(_) => Error::DataLoss(format!(
                    "nothing of the store in {root} can be saved: its {DATA_FILE} is missing or empty, and \
                     its journal has no changes; run `lmdb-images restore --root {root} --force FILE` with \
                     a backup, or, for a new, empty store, move the files of {root} away",
                    root = root.display()
                )),
            });
        }
        let recorded_uuid = store_id::read(root)?.filter(|uuid| !uuid.is_empty());
        Ok(Self { file, journal, recorded_uuid })
    }
}

fn no_store(root: &Path) -> Error {
    Error::not_found(format_args!("there is no store in {}", root.display()))
}

/// Recovers the store in `root`, into the new root `to` or in place.
///
/// # Errors
/// `NotFound` if there is no store, `FailedPrecondition` if a process has the store open. Lost records are
/// no error: the report names them.
pub fn run(root: &Path, to: Option<&Path>) -> Result<RecoveryReport> {
    let has = |file: &str| Ok::<_, Error>(permissions::stat_regular(&root.join(file))?.is_some());
    if !has(DATA_FILE)? && !has(JOURNAL_FILE)? {
        return Err(no_store(root));
    }
    let root = match to {
        // Recovery into another folder only reads the damaged store, which may be on a read-only file system.
        Some(_) => StoreDir::acquire_to_read(root),
        None => StoreDir::lock(root),
    };
    let root = root.map_err(|e| stop_daemon_hint(e, "recover, and start it again"))?;
    let source = Source::open(root.path())?;
    match to {
        Some(to) => {
            if permissions::exists(&to.join(DATA_FILE))? {
                return Err(Error::AlreadyExists(format!(
                    "there is a store in {} already: give a folder without one",
                    to.display()
                )));
            }
            fill(&source, to)
        }
        None => {
            let fresh = ScratchFolder::create_in(root.path())?;
            let mut report = fill(&source, fresh.path())?;
            // The index has no checksum, so salvage does not notice a wrong index. `check` notices it, and
            // then the fresh store brings a new index.
            if !report.is_whole() || !check::run(root.path())?.is_whole() {
                let backup = backup_name("damaged");
                root.replace(&fresh.path().join(DATA_FILE), Some(&backup))?;
                report.backup = Some(backup);
            }
            Ok(report)
        }
    }
}

/// Writes the readable records of `source` to a fresh store in `to`. When this function returns, the fresh
/// store is complete and on disk.
fn fill(source: &Source, to: &Path) -> Result<RecoveryReport> {
    let progress = progress::counter("records saved");
    let store = Store::open(to)?;
    let mut fill = Fill { store: &store, batch: Vec::new(), report: RecoveryReport::default() };
    // Records from outside the live state may have several versions, so they wait here until salvage has
    // seen all versions. The key is the record's table and key.
    let mut candidates: BTreeMap<(Table, Vec<u8>), (Record, Vec<u8>)> = BTreeMap::new();
    let mut unreadable = BTreeSet::new();
    let doubtful = |origin| matches!(origin, Origin::Previous | Origin::Unreferenced);
    let mut origins = BTreeMap::new();
    let (mut last, mut last_set_aside) = (Vec::new(), Vec::new());
    let mut visit = |saved: SavedRecord<'_>| {
        progress.inc(1);
        let Ok(record) = record::read(saved.key, saved.message) else {
            unreadable.insert(saved.key.to_vec());
            return Ok(());
        };
        if saved.origin == Origin::Live {
            // A damaged page may refer to one record twice and miss another. Count the first record only
            // once, or the total would hide the missing one.
            let previous = match saved.table {
                Table::SetAside => &mut last_set_aside,
                _ => &mut last,
            };
            if saved.key <= previous.as_slice() && !fill.is_new(&record, saved.table)? {
                return Ok(());
            }
            *previous = saved.key.to_vec();
            return fill.add(record, saved.table, saved.message, saved.origin);
        }
        if !fill.is_new(&record, saved.table)? {
            return Ok(());
        }
        let key = (saved.table, saved.key.to_vec());
        let newer = match (candidates.get(&key), origins.get(&key)) {
            (Some((known, _)), Some(origin)) => doubtful(*origin) && known.updated < record.updated,
            _ => true,
        };
        if newer {
            origins.insert(key.clone(), saved.origin);
            candidates.insert(key, (record, saved.message.to_vec()));
        }
        Ok(())
    };
    let found = match &source.file {
        Some(file) => salvage(file, &mut visit)?,
        None => Findings::default(),
    };
    for ((table, key), (record, message)) in candidates {
        let origin = origins.get(&(table, key.clone())).copied().unwrap_or(Origin::Unreferenced);
        if doubtful(origin) {
            fill.report.doubtful.push(record::describe_key(&key));
        }
        fill.add(record, table, &message, origin)?;
    }
    fill.flush()?;
    let known = source.file.is_some().then_some(&found);
    JournalReplay::new(&source.journal, source.recorded_uuid.as_deref(), known)
        .carry_out(&store, &mut fill.report)?;
    fill.create_missing_namespaces()?;
    store.detach_journal()?;
    progress.finish_and_clear();
    let mut report = fill.report;
    for key in found.damaged_keys.iter().chain(&unreadable) {
        let saved = store.read(|snapshot| snapshot.has_key(key))?;
        if !saved {
            report.lost.push(record::describe_key(key));
        }
    }
    report.found = found;
    Ok(report)
}

struct Fill<'s> {
    store: &'s Store,
    batch: Vec<(Record, Table, Vec<u8>)>,
    report: RecoveryReport,
}

impl Fill<'_> {
    fn add(&mut self, record: Record, table: Table, message: &[u8], origin: Origin) -> Result<()> {
        *self.report.saved.of(origin) += 1;
        self.report.set_aside += u64::from(table == Table::SetAside);
        self.batch.push((record, table, message.to_vec()));
        if self.batch.len() < MAX_BATCH_RECORDS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.store.writer().write_blocking(move |change| {
            // Saved records are not changes: the fresh store's log begins after them.
            change.skip_log();
            batch
                .iter()
                .try_for_each(|(record, table, message)| put(change, record, *table, message))
        })
    }

    /// Returns true if the fresh store has no record of this name in `table` yet. A record that it has is more certain.
    fn is_new(&mut self, record: &Record, table: Table) -> Result<bool> {
        self.flush_if_any()?;
        let there = self.store.read(|snapshot| match &record.named {
            None => Ok(snapshot.namespace(&record.namespace)?.is_some()),
            Some((kind, name)) if table == Table::SetAside => {
                snapshot.is_aside(&record.namespace, *kind, name)
            }
            Some((kind, name)) => Ok(snapshot.record(&record.namespace, *kind, name)?.is_some()),
        })?;
        Ok(!there)
    }

    fn flush_if_any(&mut self) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Creates a record for each namespace that has saved images or leases but lost its own record.
    fn create_missing_namespaces(&mut self) -> Result<()> {
        for namespace in self.store.read(|s| s.namespaces())? {
            if self.store.read(|s| Ok(s.namespace(&namespace)?.is_some()))? {
                continue;
            }
            self.report.recreated.push(namespace.to_string());
            let record =
                NamespaceRecord { name: namespace.to_string(), ..NamespaceRecord::default() };
            let message = encode(&record)?;
            self.store
                .writer()
                .write_blocking(move |change| change.put_namespace(&namespace, &message))?;
        }
        Ok(())
    }
}

fn put(change: &mut Transaction<'_>, record: &Record, table: Table, message: &[u8]) -> Result<()> {
    let namespace = &record.namespace;
    match &record.named {
        None => change.put_namespace(namespace, message),
        Some((kind, name)) if table == Table::SetAside => {
            change.put_aside(namespace, *kind, name, message)
        }
        Some((kind, name)) => {
            change.put(namespace, *kind, name, message, record.expires.as_deref())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::api::leases::StoredLease;
    use crate::model::Namespace;
    use crate::store::Kind;

    const PAGE: usize = 4096;
    /// Length in bytes of a page's header. The offsets of the page's nodes follow.
    const HEAD: usize = 16;
    /// Length in bytes of a node's header. The node's key follows.
    const NODE_HEAD: usize = 8;

    /// Creates and closes a store of `count` leases.
    fn store(count: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = move |change: &mut Transaction<'_>| {
            let namespace = Namespace::parse("n").unwrap();
            (0..count).try_for_each(|number| {
                let lease = StoredLease { id: format!("{number:04}"), ..StoredLease::default() };
                change.put(&namespace, Kind::Lease, &lease.id, &encode(&lease)?, None)
            })
        };
        store.writer().write_blocking(put).unwrap();
        dir
    }

    #[test]
    fn a_record_that_is_found_twice_does_not_hide_a_missing_one() {
        let whole = store(200);
        let bytes = fs::read(whole.path().join(DATA_FILE)).unwrap();
        // Leaf pages, of the live state or of an old one: the first node is a lease, and at least two more
        // nodes follow.
        let offset = |page: usize, node: usize| page + HEAD + 2 * node;
        let pages = (0..bytes.len() / PAGE).map(|number| number * PAGE).filter(|page| {
            let lower = u16::from_le_bytes([bytes[page + 12], bytes[page + 13]]);
            let first = usize::from(u16::from_le_bytes([bytes[page + 16], bytes[page + 17]]));
            let key = bytes.get(page + first + NODE_HEAD..).unwrap_or_default();
            usize::from(lower) >= HEAD + 6 && key.starts_with(b"v1/n/leases/")
        });
        let mut incomplete = 0;
        for page in pages {
            let mut damaged = bytes.clone();
            damaged.copy_within(offset(page, 1)..offset(page, 2), offset(page, 2));
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(DATA_FILE), &damaged).unwrap();
            let report = run(dir.path(), None).unwrap();
            let there = Store::open(dir.path()).unwrap();
            let namespace = Namespace::parse("n").unwrap();
            let count = there.read(|s| Ok(s.scan(&namespace, Kind::Lease)?.count())).unwrap();
            assert_eq!(report.is_complete(), count == 200, "page {}: {report}", page / PAGE);
            incomplete += usize::from(count < 200);
        }
        assert!(incomplete > 0, "no damaged page was one of the live state");
    }
}
