//! `lmdb-images check`: verifies the integrity of a store.
//!
//! First the verifier checks the page structure of the data file. Then the command reads every record in
//! one snapshot:
//!
//! - The checksum must be right, the message must decode, and its name must be the name in the key.
//! - The index entries and the expiry entry must agree with the record.
//! - The log of changes must have no gap. For each image, the last state in the log must be the record.
//!
//! The daemon may keep running: the snapshot blocks no other reader and no writer.

use std::path::Path;

use serde_json::json;

use super::{progress, record};
use crate::model::{Error, Result};
use crate::store::read::audit::{Counts, RecordAudit};
use crate::store::read::log_audit::LogEnds;
use crate::store::{Kind, ReadOnlyStore};

/// Largest number of sentences about damage that a [`CheckReport`] keeps. [`CheckReport::damaged`] counts every
/// damage.
const MAX_DAMAGE_SENTENCES: usize = 1000;

/// Result of a check.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Number of readable namespace records.
    pub namespaces: u64,
    /// Number of readable image records.
    pub images: u64,
    /// Number of readable lease records.
    pub leases: u64,
    /// Number of entries in each LMDB database; `None` if the store could not be opened.
    pub counts: Option<Counts>,
    /// The entries of the log; `None` if the log is off.
    pub(crate) log: Option<LogEnds>,
    /// State of the data file; `None` if the store could not be opened.
    pub(crate) file: Option<FileState>,
    /// One sentence for each damage, at most 1,000.
    pub damage: Vec<String>,
    /// Number of damages found, including those without a sentence.
    pub damaged: u64,
    /// Irregularities that do no harm, one sentence each.
    pub notes: Vec<String>,
}

/// The last state of the data file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileState {
    /// Id of the last transaction.
    pub(crate) transaction: u64,
    /// Number of pages in use.
    pub(crate) used_pages: u64,
    /// Number of free pages.
    pub(crate) free_pages: u64,
    /// Number of pages that are neither in use nor free.
    pub(crate) leaked_pages: u64,
}

/// Checks the store in `root`.
///
/// # Errors
/// If the store cannot be opened or read for another reason than damage. Damage is no error: the report
/// lists it.
pub fn run(root: &Path) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let reader = match ReadOnlyStore::open(root) {
        Ok(reader) => reader,
        Err(Error::DataLoss(why)) => {
            report.add_damage(why);
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    let state = reader.state();
    report.file = Some(FileState {
        transaction: state.transaction,
        used_pages: state.used,
        free_pages: state.free,
        leaked_pages: state.leaked,
    });
    if state.leaked > 0 {
        report.notes.push(format!(
            "{} pages are neither in use nor free: `lmdb-images recover` frees them",
            state.leaked
        ));
    }
    let progress = progress::counter("records");
    let (mut entries, mut expiring) = (0, 0);
    reader.read(|snapshot| {
        report.counts = Some(snapshot.counts()?);
        snapshot.for_each_record(&mut |stored| {
            progress.inc(1);
            entries += stored.index_entries.needed;
            expiring += u64::from(stored.expires.is_some());
            report.check_record(&stored);
            Ok(())
        })?;
        let log = snapshot.audit_log(&mut || progress.inc(1))?;
        report.log = log.ends;
        log.damage.into_iter().for_each(|damage| report.add_damage(damage));
        Ok(())
    })?;
    progress.finish_and_clear();
    if let Some(counts) = report.counts {
        let databases =
            [("the index", counts.index, entries), ("expiring", counts.expiring, expiring)];
        for (what, has, needed) in databases {
            if has > needed {
                let more = has - needed;
                report.notes.push(format!("{what} has {more} entries that belong to no record"));
            }
        }
    }
    Ok(report)
}

impl CheckReport {
    fn add_damage(&mut self, what: String) {
        self.damaged += 1;
        if self.damage.len() < MAX_DAMAGE_SENTENCES {
            self.damage.push(what);
        }
    }

    fn check_record(&mut self, stored: &RecordAudit<'_>) {
        let aside = if stored.is_set_aside { ", set aside" } else { "" };
        let wrong = |report: &mut Self, what: &str| {
            report.add_damage(format!("{}{aside}: {what}", record::describe_key(stored.key)));
        };
        let Ok(message) = stored.message else {
            return wrong(self, "the checksum is wrong");
        };
        let found = match record::read(stored.key, message) {
            Ok(found) => found,
            Err(why) => return wrong(self, &why),
        };
        if stored.is_set_aside {
            return;
        }
        match found.named {
            None => self.namespaces += 1,
            Some((Kind::Image, _)) => self.images += 1,
            Some((Kind::Lease, _)) => self.leases += 1,
        }
        if stored.index_entries.present < stored.index_entries.needed {
            wrong(self, "the index lacks entries of this record");
        }
        if found.expires.as_deref().map(str::as_bytes) != stored.expires {
            wrong(self, "the expiry entry disagrees with the record");
        }
    }

    /// Returns true if the check found no damage.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        let pages = self.file.map(|file| {
            json!({
                "used": file.used_pages,
                "free": file.free_pages,
                "lost": file.leaked_pages,
            })
        });
        json!({
            "whole": self.is_whole(),
            "transaction": self.file.map(|file| file.transaction),
            "pages": pages,
            "namespaces": self.namespaces,
            "images": self.images,
            "leases": self.leases,
            "aside": self.counts.map(|c| c.set_aside),
            "index": self.counts.map(|c| c.index),
            "log": self.log.map(|log| json!({ "first": log.first, "last": log.last })),
            "damaged": self.damaged,
            "damage": self.damage,
            "notes": self.notes,
        })
        .to_string()
    }
}

impl std::fmt::Display for CheckReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(file), Some(counts)) = (self.file, self.counts) {
            writeln!(
                f,
                "transaction {}: {} pages in use, {} free",
                file.transaction, file.used_pages, file.free_pages
            )?;
            writeln!(
                f,
                "{} namespaces, {} images, {} leases; {} set aside, {} entries in the index",
                self.namespaces, self.images, self.leases, counts.set_aside, counts.index
            )?;
        }
        match self.log {
            Some(LogEnds { first, last }) if first <= last => {
                writeln!(f, "entries {first} to {last} in the log")?
            }
            Some(_) => writeln!(f, "no entries in the log")?,
            None => {}
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for damage in &self.damage {
            writeln!(f, "damaged: {damage}")?;
        }
        match self.damaged {
            0 => f.write_str("the store is whole"),
            n => write!(f, "{n} damaged"),
        }
    }
}
