//! What a recovery saved, and what it could not.

use std::fmt;

use serde_json::json;

use crate::store::recovery::salvage::Findings;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// What the salvage met.
    pub found: Findings,
    /// Records that were saved, by where they were found: in the live state, on lost pages of it, in
    /// the state before, elsewhere.
    pub saved: [u64; 4],
    /// Of them, those that are set aside.
    pub aside: u64,
    /// Saved records that may be old, or may have been deleted since: a name each.
    pub doubtful: Vec<String>,
    /// Namespaces whose record was lost, and which were made anew because of what is in them.
    pub made: Vec<String>,
    /// What is known to be lost, a name each.
    pub lost: Vec<String>,
    /// Commits that only the journal had.
    pub from_journal: u64,
    /// What is wrong with the journal.
    pub journal_fault: Option<String>,
    /// Changes in the journal of which it is not known whether they are newer than the records: a
    /// sentence each.
    pub unordered: Vec<String>,
    /// What the damaged file is called now, if it made room.
    pub kept: Option<String>,
}

impl Report {
    /// Records in the fresh store, of namespaces and leases too, but for what the journal had.
    pub fn total(&self) -> u64 {
        self.saved.iter().sum()
    }

    /// Nothing is damaged: neither the data file nor the journal.
    pub fn is_whole(&self) -> bool {
        self.found.whole && self.journal_fault.is_none() && self.unordered.is_empty()
    }

    /// Every answered record was saved, and is the newest.
    pub fn is_complete(&self) -> bool {
        let [live, orphan, _, _] = self.saved;
        let all = self.found.whole
            || (self.lost.is_empty()
                && self.made.is_empty()
                && self.doubtful.is_empty()
                && self.found.certain
                && self.found.expected == Some(live + orphan));
        all && self.journal_fault.is_none() && self.unordered.is_empty()
    }

    /// All of it as one JSON object.
    pub fn json(&self) -> String {
        let [live, orphan, before, loose] = self.saved;
        json!({
            "whole": self.is_whole(),
            "complete": self.is_complete(),
            "certain": self.found.certain,
            "noted": self.found.expected,
            "saved": self.total(),
            "saved_live": live,
            "saved_from_lost_pages": orphan,
            "saved_from_state_before": before,
            "saved_perhaps_old": loose,
            "saved_from_journal": self.from_journal,
            "aside": self.aside,
            "perhaps_old": self.doubtful,
            "lost": self.lost,
            "namespaces_made": self.made,
            "damage": self.found.damage,
            "journal_damage": self.journal_fault,
            "journal_unordered": self.unordered,
            "kept": self.kept,
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [live, orphan, before, loose] = self.saved;
        for damage in &self.found.damage {
            writeln!(f, "damaged: {damage}")?;
        }
        if let Some(fault) = &self.journal_fault {
            writeln!(f, "damaged: the journal: {fault}; answered changes may be missing")?;
        }
        for lost in &self.lost {
            writeln!(f, "lost: {lost}")?;
        }
        for name in &self.doubtful {
            writeln!(f, "perhaps old, or deleted since: {name}")?;
        }
        for what in &self.unordered {
            writeln!(f, "in doubt: {what}")?;
        }
        if !self.found.certain {
            writeln!(f, "the last checkpoint may be missing: its meta page is damaged")?;
        }
        for made in &self.made {
            writeln!(f, "made anew, without its labels: namespace {made}")?;
        }
        write!(f, "saved {} records", self.total())?;
        if let Some(noted) = self.found.expected {
            write!(f, " of {noted}")?;
        }
        for (count, what) in [
            (live, "in their place"),
            (orphan, "on pages that nothing led to any more"),
            (before, "in the state before the last change: they are named above"),
            (loose, "on other pages: they are named above"),
        ] {
            if count > 0 {
                write!(f, "\n  {count} {what}")?;
            }
        }
        if self.from_journal > 0 {
            write!(f, "\nand {} commits that only the journal had", self.from_journal)?;
        }
        Ok(())
    }
}
