//! `lmdb-images check`: whether a store is whole.
//!
//! The structure of the file, by the verifier; then in one snapshot every record: its checksum, that
//! it is a message of its kind with the name of its key, and that index and times of expiry agree
//! with it. Beside a running daemon it sees one state and holds nobody up.

use std::path::Path;

use serde_json::json;

use super::{progress, record};
use crate::model::{Error, Result};
use crate::store::read::audit::{Counts, Stored};
use crate::store::{Kind, ReadOnlyStore};

/// So many sentences are kept; the number of all is known.
const MOST_SENTENCES: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Records by kind.
    pub namespaces: u64,
    /// Records by kind.
    pub images: u64,
    /// Records by kind.
    pub leases: u64,
    /// Entries by database.
    pub counts: Option<Counts>,
    /// The last transaction, and pages: in use, free, neither.
    pub file: Option<(u64, [u64; 3])>,
    /// What is wrong, a sentence each.
    pub damage: Vec<String>,
    /// How much is wrong.
    pub damaged: u64,
    /// What is strange but does no harm.
    pub notes: Vec<String>,
}

/// Looks at everything in the store in `root`.
pub fn run(root: &Path) -> Result<Report> {
    let mut report = Report::default();
    let reader = match ReadOnlyStore::open(root) {
        Ok(reader) => reader,
        Err(Error::DataLoss(why)) => {
            report.wrong(why);
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    let state = reader.state();
    report.file = Some((state.transaction, [state.used, state.free, state.leaked]));
    if state.leaked > 0 {
        report.notes.push(format!(
            "{} pages are neither in use nor free: `lmdb-images recover` gives their space back",
            state.leaked
        ));
    }
    let progress = progress::counting("records");
    let (mut entries, mut expiring) = (0, 0);
    reader.read(|snapshot| {
        report.counts = Some(snapshot.counts()?);
        snapshot.for_each_record(&mut |stored| {
            progress.inc(1);
            entries += stored.indexed.0;
            expiring += u64::from(stored.expires.is_some());
            report.one(&stored);
            Ok(())
        })
    })?;
    progress.finish_and_clear();
    if let Some(counts) = report.counts {
        let beside =
            [("the index", counts.index, entries), ("expiring", counts.expiring, expiring)];
        for (what, has, needed) in beside {
            if has > needed {
                let more = has - needed;
                report.notes.push(format!("{what} has {more} entries that belong to no record"));
            }
        }
    }
    Ok(report)
}

impl Report {
    fn wrong(&mut self, what: String) {
        self.damaged += 1;
        if self.damage.len() < MOST_SENTENCES {
            self.damage.push(what);
        }
    }

    fn one(&mut self, stored: &Stored<'_>) {
        let aside = if stored.aside { ", set aside" } else { "" };
        let wrong = |report: &mut Self, what: &str| {
            report.wrong(format!("{}{aside}: {what}", record::describe_key(stored.key)));
        };
        let Ok(message) = stored.message else {
            return wrong(self, "its checksum is wrong");
        };
        let found = match record::read(stored.key, message) {
            Ok(found) => found,
            Err(why) => return wrong(self, &why),
        };
        if stored.aside {
            return;
        }
        match found.named {
            None => self.namespaces += 1,
            Some((Kind::Image, _)) => self.images += 1,
            Some((Kind::Lease, _)) => self.leases += 1,
        }
        if stored.indexed.0 != stored.indexed.1 {
            wrong(self, "entries of it are missing in the index");
        }
        if found.expires.as_deref().map(str::as_bytes) != stored.expires {
            wrong(self, "when it expires is noted differently");
        }
    }

    /// Nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0
    }

    /// All of it as one JSON object.
    pub fn json(&self) -> String {
        let pages = self
            .file
            .map(|(_, [used, free, lost])| json!({ "used": used, "free": free, "lost": lost }));
        json!({
            "whole": self.is_whole(),
            "transaction": self.file.map(|(transaction, _)| transaction),
            "pages": pages,
            "namespaces": self.namespaces,
            "images": self.images,
            "leases": self.leases,
            "aside": self.counts.map(|c| c.aside),
            "index": self.counts.map(|c| c.index),
            "damaged": self.damaged,
            "damage": self.damage,
            "notes": self.notes,
        })
        .to_string()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some((transaction, [used, free, _])), Some(counts)) = (self.file, self.counts) {
            writeln!(f, "transaction {transaction}: {used} pages in use, {free} free")?;
            writeln!(
                f,
                "{} namespaces, {} images, {} leases; {} set aside, {} entries in the index",
                self.namespaces, self.images, self.leases, counts.aside, counts.index
            )?;
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
