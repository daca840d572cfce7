//! `lmdb-images recover`: saves what can be saved of a damaged store into a fresh one.
//!
//! `store::salvage` finds the records, most certain first; what came earlier under a key is kept.
//! The fresh store is written as any other, indexes included, and takes the damaged file's place
//! when it is complete and on disk. The damaged file is kept: nothing here is the last chance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::record::{self, Record};
use super::restore::{kept_as, stop_first, there_is_a_store};
use super::{check, progress};
use crate::api::namespace::Namespace as NamespaceRecord;
use crate::model::{Error, Result};
use crate::service::message::encode;
use crate::store::journal::{self, entry::Changes};
use crate::store::root::{DATA_FILE, Root};
use crate::store::salvage::{Found, Origin, Saved, salvage};
use crate::store::{Change, Records, Store, verify};

/// So many records go into a transaction.
const BATCH: usize = 256;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// What the salvage met.
    pub found: Found,
    /// Records that were saved, by where they were found: in the live state, on lost pages of it, in
    /// the state before, elsewhere.
    pub saved: [u64; 4],
    /// Of them, those that are set aside.
    pub aside: u64,
    /// Namespaces whose record was lost, and which were made anew because of what is in them.
    pub made: Vec<String>,
    /// What is known to be lost, a name each.
    pub lost: Vec<String>,
    /// What the damaged file is called now, if it made room.
    pub kept: Option<String>,
}

/// Saves the store in `root`, into the new root `to` or in place.
pub fn run(root: &Path, to: Option<&Path>) -> Result<Report> {
    there_is_a_store(root)?;
    let root = match to {
        // Nothing of the damaged store is changed, so it may lie where nothing can be.
        Some(_) => Root::acquire_to_read(root),
        None => Root::acquire(root),
    };
    let root = root.map_err(|e| stop_first(e, "recover, and start it again"))?;
    let file = verify::open(&root.data_file(), false)?;
    let file = file.ok_or_else(|| Error::not_found("the data file"))?;
    let journal = journal::salvage(root.path())?;
    match to {
        Some(to) => {
            if to.join(DATA_FILE).symlink_metadata().is_ok() {
                return Err(Error::AlreadyExists(format!(
                    "there is a store in {} already: give a folder without one",
                    to.display()
                )));
            }
            fill(&file, journal, to)
        }
        None => {
            let fresh = tempfile::tempdir_in(root.path())
                .map_err(|e| Error::Internal(format!("making a folder in the root: {e}")))?;
            let mut report = fill(&file, journal, fresh.path())?;
            // What the index says has no checksum: a whole file may still need a new one.
            if !report.found.whole || !check::run(root.path())?.is_whole() {
                let kept = kept_as("damaged");
                root.replace(&fresh.path().join(DATA_FILE), Some(&kept))?;
                report.kept = Some(kept);
            }
            Ok(report)
        }
    }
}

/// Writes what is saved of `file`, and then what its journal says, into a fresh store in `to`, which is
/// complete and on disk after.
fn fill(file: &std::fs::File, journal: Vec<Changes>, to: &Path) -> Result<Report> {
    let progress = progress::counting("records saved");
    let store = Store::open(to)?;
    let mut fill = Fill { store: &store, batch: Vec::new(), report: Report::default() };
    // What may be one of several versions, until all are seen.
    let mut loose: BTreeMap<(bool, Vec<u8>), (Record, Vec<u8>)> = BTreeMap::new();
    let mut unreadable = BTreeSet::new();
    let doubtful = |origin| matches!(origin, Origin::Before | Origin::Loose);
    let mut origins = BTreeMap::new();
    let (mut last, mut last_aside) = (Vec::new(), Vec::new());
    let found = salvage(file, &mut |saved: Saved<'_>| {
        progress.inc(1);
        let Ok(record) = record::read(saved.key, saved.message) else {
            unreadable.insert(saved.key.to_vec());
            return Ok(());
        };
        if saved.origin == Origin::Live {
            // A damaged page may lead to a record twice, and to another not at all: count it once.
            let before = if saved.aside { &mut last_aside } else { &mut last };
            if saved.key <= before.as_slice() && !fill.is_new(&record, saved.aside)? {
                return Ok(());
            }
            *before = saved.key.to_vec();
            return fill.add(record, saved.aside, saved.message, saved.origin);
        }
        if !fill.is_new(&record, saved.aside)? {
            return Ok(());
        }
        let place = (saved.aside, saved.key.to_vec());
        let newer = match (loose.get(&place), origins.get(&place)) {
            (Some((known, _)), Some(origin)) => doubtful(*origin) && known.updated < record.updated,
            _ => true,
        };
        if newer {
            origins.insert(place.clone(), saved.origin);
            loose.insert(place, (record, saved.message.to_vec()));
        }
        Ok(())
    })?;
    for ((aside, key), (record, message)) in loose {
        let origin = origins.get(&(aside, key)).copied().unwrap_or(Origin::Loose);
        fill.add(record, aside, &message, origin)?;
    }
    fill.flush()?;
    for changes in journal {
        store.writer().write_blocking(move |change| change.redo(&changes))?;
    }
    fill.namespaces()?;
    store.checkpoint()?;
    progress.finish_and_clear();
    let mut report = fill.report;
    for key in found.damaged.iter().chain(&unreadable) {
        let saved = store.read(|snapshot| snapshot.has_key(key))?;
        if !saved {
            report.lost.push(record::called(key));
        }
    }
    report.found = found;
    Ok(report)
}

struct Fill<'s> {
    store: &'s Store,
    batch: Vec<(Record, bool, Vec<u8>)>,
    report: Report,
}

impl Fill<'_> {
    fn add(&mut self, record: Record, aside: bool, message: &[u8], origin: Origin) -> Result<()> {
        let [live, orphan, before, loose] = &mut self.report.saved;
        *match origin {
            Origin::Live => live,
            Origin::Orphan => orphan,
            Origin::Before => before,
            Origin::Loose => loose,
        } += 1;
        self.report.aside += u64::from(aside);
        self.batch.push((record, aside, message.to_vec()));
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.store.writer().write_blocking(move |change| {
            batch
                .iter()
                .try_for_each(|(record, aside, message)| put(change, record, *aside, message))
        })
    }

    /// Whether nothing more certain is there under the name of this record.
    fn is_new(&mut self, record: &Record, aside: bool) -> Result<bool> {
        self.flush_some()?;
        let there = self.store.read(|snapshot| match &record.named {
            None => Ok(snapshot.namespace(&record.namespace)?.is_some()),
            Some((kind, name)) if aside => snapshot.is_aside(&record.namespace, *kind, name),
            Some((kind, name)) => Ok(snapshot.record(&record.namespace, *kind, name)?.is_some()),
        })?;
        Ok(!there)
    }

    fn flush_some(&mut self) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Makes the namespaces that records were saved of, but not their own.
    fn namespaces(&mut self) -> Result<()> {
        for namespace in self.store.read(|s| s.namespaces())? {
            if self.store.read(|s| Ok(s.namespace(&namespace)?.is_some()))? {
                continue;
            }
            self.report.made.push(namespace.to_string());
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

fn put(change: &mut Change<'_>, record: &Record, aside: bool, message: &[u8]) -> Result<()> {
    let namespace = &record.namespace;
    match &record.named {
        None => change.put_namespace(namespace, message),
        Some((kind, name)) if aside => change.put_aside(namespace, *kind, name, message),
        Some((kind, name)) => {
            change.put(namespace, *kind, name, message, record.expires.as_deref())
        }
    }
}

impl Report {
    /// Records in the fresh store, of namespaces and leases too.
    pub fn total(&self) -> u64 {
        self.saved.iter().sum()
    }

    /// Every record that the store says it had was saved, and is the newest.
    pub fn is_complete(&self) -> bool {
        let [live, orphan, before, loose] = self.saved;
        self.found.whole
            || (self.lost.is_empty()
                && self.made.is_empty()
                && before + loose == 0
                && self.found.certain
                && self.found.noted == Some(live + orphan))
    }

    /// All of it as one JSON object.
    pub fn json(&self) -> String {
        let [live, orphan, before, loose] = self.saved;
        json!({
            "whole": self.found.whole,
            "complete": self.is_complete(),
            "certain": self.found.certain,
            "noted": self.found.noted,
            "saved": self.total(),
            "saved_live": live,
            "saved_from_lost_pages": orphan,
            "saved_from_state_before": before,
            "saved_perhaps_old": loose,
            "aside": self.aside,
            "lost": self.lost,
            "namespaces_made": self.made,
            "damage": self.found.damage,
            "kept": self.kept,
        })
        .to_string()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [live, orphan, before, loose] = self.saved;
        for damage in &self.found.damage {
            writeln!(f, "damaged: {damage}")?;
        }
        for lost in &self.lost {
            writeln!(f, "lost: {lost}")?;
        }
        if !self.found.certain {
            writeln!(f, "the last change may be missing: where it begins is damaged")?;
        }
        for made in &self.made {
            writeln!(f, "made anew, without its labels: namespace {made}")?;
        }
        write!(f, "saved {} records", self.total())?;
        if let Some(noted) = self.found.noted {
            write!(f, " of {noted}")?;
        }
        for (count, what) in [
            (live, "in their place"),
            (orphan, "on pages that nothing led to any more"),
            (
                before,
                "in the state before the last change: they may since have been changed or deleted",
            ),
            (loose, "on other pages: they may be old, or have been deleted"),
        ] {
            if count > 0 {
                write!(f, "\n  {count} {what}")?;
            }
        }
        Ok(())
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
    /// Bytes before the offsets of a page's nodes.
    const HEAD: usize = 16;
    /// Bytes before the key of a node.
    const NODE_HEAD: usize = 8;

    /// A store of so many leases, closed.
    fn store(count: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = move |change: &mut Change<'_>| {
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
    fn a_record_that_a_damaged_page_leads_to_twice_does_not_stand_for_the_one_that_is_missing() {
        let whole = store(200);
        let bytes = fs::read(whole.path().join(DATA_FILE)).unwrap();
        // The pages with three nodes or more whose first is a lease: leaves of the live state, or old ones.
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
            let count = there.read(|s| Ok(s.walk(&namespace, Kind::Lease)?.count())).unwrap();
            assert_eq!(report.is_complete(), count == 200, "page {}: {report}", page / PAGE);
            incomplete += usize::from(count < 200);
        }
        assert!(incomplete > 0, "no damaged page was one of the live state");
    }
}
