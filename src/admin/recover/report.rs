//! The report of a recovery: what it saved and what is lost.

use std::fmt;

use serde_json::json;

use crate::store::recovery::salvage::{Findings, Origin};

/// Result of a recovery.
#[derive(Debug, Default)]
pub struct RecoveryReport {
    /// Findings of the salvage.
    pub found: Findings,
    /// Numbers of saved records by origin.
    pub saved: SavedCounts,
    /// Number of saved records that are set aside.
    pub set_aside: u64,
    /// Names of saved records that may be old, or may have been deleted since.
    pub doubtful: Vec<String>,
    /// Namespaces whose lost record was created again because images or leases in them were saved.
    pub recreated: Vec<String>,
    /// Names of records known to be lost.
    pub lost: Vec<String>,
    /// Number of commits that only the journal had.
    pub from_journal: u64,
    /// Damage of the journal.
    pub(crate) journal_fault: Option<String>,
    /// Changes in the journal that may be older or newer than the records: one sentence each.
    pub unordered: Vec<String>,
    /// New name of the damaged data file, if the fresh store replaced it.
    pub backup: Option<String>,
}

/// Numbers of saved records by origin.
#[derive(Debug, Default, Clone, Copy)]
pub struct SavedCounts {
    /// From the live state.
    pub live: u64,
    /// From leaked pages of the live state.
    pub orphan: u64,
    /// From the previous state.
    pub previous: u64,
    /// From other pages.
    pub unreferenced: u64,
}

impl SavedCounts {
    /// The number of records from `origin`.
    pub(super) fn of(&mut self, origin: Origin) -> &mut u64 {
        match origin {
            Origin::Live => &mut self.live,
            Origin::Orphan => &mut self.orphan,
            Origin::Previous => &mut self.previous,
            Origin::Unreferenced => &mut self.unreferenced,
        }
    }
}

impl RecoveryReport {
    /// Number of records saved from the data file: images, namespaces and leases.
    pub fn total(&self) -> u64 {
        let SavedCounts { live, orphan, previous, unreferenced } = self.saved;
        live + orphan + previous + unreferenced
    }

    /// Returns true if neither the data file nor the journal is damaged.
    pub fn is_whole(&self) -> bool {
        self.found.is_whole && self.journal_fault.is_none() && self.unordered.is_empty()
    }

    /// Returns true if the newest version of every answered record was saved.
    pub fn is_complete(&self) -> bool {
        let SavedCounts { live, orphan, .. } = self.saved;
        let all = self.found.is_whole
            || (self.lost.is_empty()
                && self.recreated.is_empty()
                && self.doubtful.is_empty()
                && self.found.is_newest_known
                && self.found.expected_records == Some(live + orphan));
        all && self.journal_fault.is_none() && self.unordered.is_empty()
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        let SavedCounts { live, orphan, previous, unreferenced } = self.saved;
        json!({
            "whole": self.is_whole(),
            "complete": self.is_complete(),
            "certain": self.found.is_newest_known,
            "noted": self.found.expected_records,
            "saved": self.total(),
            "saved_live": live,
            "saved_from_lost_pages": orphan,
            "saved_from_state_before": previous,
            "saved_perhaps_old": unreferenced,
            "saved_from_journal": self.from_journal,
            "aside": self.set_aside,
            "perhaps_old": self.doubtful,
            "lost": self.lost,
            "namespaces_made": self.recreated,
            "damage": self.found.damage,
            "journal_damage": self.journal_fault,
            "journal_unordered": self.unordered,
            "kept": self.backup,
        })
        .to_string()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SavedCounts { live, orphan, previous, unreferenced } = self.saved;
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
        if !self.found.is_newest_known {
            writeln!(f, "the last checkpoint may be missing: its meta page is damaged")?;
        }
        for namespace in &self.recreated {
            writeln!(f, "made anew, without its labels: namespace {namespace}")?;
        }
        write!(f, "saved {} records", self.total())?;
        if let Some(noted) = self.found.expected_records {
            write!(f, " of {noted}")?;
        }
        for (count, what) in [
            (live, "in their place"),
            (orphan, "on pages that no page refers to"),
            (previous, "in the state before the last change: they are named above"),
            (unreferenced, "on other pages: they are named above"),
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
