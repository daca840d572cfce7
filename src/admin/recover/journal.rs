//! Finds the journal entries that are newer than the salvaged records.
//!
//! After a kill the journal still holds entries that a checkpoint has moved to the data file, and the
//! journal may belong to another store. So recovery applies an entry only if the entry and the data
//! file name the same store and the same checkpoint. An entry that follows an earlier LMDB transaction
//! is already in the data file. Any other entry cannot be ordered: recovery sets its records aside and
//! reports them.

use std::collections::BTreeMap;

use crate::admin::record::{self, Record};
use crate::admin::recover::report::RecoveryReport;
use crate::model::Result;
use crate::store::journal::entry::JournalEntry;
use crate::store::journal::header::Header;
use crate::store::journal::replay::{JournalFault, ReadableJournal};
use crate::store::recovery::salvage::Findings;
use crate::store::schema::table::Table;
use crate::store::schema::value;
use crate::store::{Kind, Records, Store, Transaction};

/// The treatment of each journal entry by a recovery.
pub(crate) struct JournalReplay<'j> {
    /// Entries that follow the data file's state, in order.
    newer: Vec<&'j JournalEntry>,
    /// Entries that may be older or newer than that state.
    unordered: Vec<&'j JournalEntry>,
    /// True if there is no data file to compare with.
    data_file_missing: bool,
    fault: Option<JournalFault>,
}

impl<'j> JournalReplay<'j> {
    /// Plans from the facts of the data file, if there is one, and from the store UUID recorded in the
    /// folder.
    pub(crate) fn new(
        journal: &'j ReadableJournal,
        recorded_uuid: Option<&str>,
        found: Option<&Findings>,
    ) -> Self {
        let Some(found) = found else {
            let mut newer: Vec<_> = journal.entries.iter().collect();
            newer.sort_by_key(|entry| (entry.base, entry.number));
            return Self { newer, unordered: Vec::new(), data_file_missing: true, fault: None };
        };
        let (mut newer, mut unordered) = (Vec::new(), Vec::new());
        // If data file and folder name different stores, either of them may be damaged.
        let known = match (found.identity.uuid.as_deref(), recorded_uuid) {
            (Some(uuid), Some(recorded_uuid)) if uuid != recorded_uuid => None,
            (uuid, recorded_uuid) => uuid.or(recorded_uuid),
        };
        let header_fits =
            journal.header.as_ref().is_some_and(|header| Some(header.uuid.as_str()) == known);
        for entry in &journal.entries {
            let is_ours = known == Some(entry.uuid.as_str());
            if is_ours && found.identity.checkpoint == Some(entry.checkpoint) {
                newer.push(entry);
            } else if known.is_some() && !is_ours {
                // Under a header of this store, such entries are remains of an earlier file in the same
                // sectors.
                unordered.extend((!header_fits).then_some(entry));
            } else if !(is_ours && is_checkpointed(entry, found)) {
                unordered.push(entry);
            }
        }
        newer.sort_by_key(|entry| entry.number);
        let fault = fault(journal, found, &newer);
        Self { newer, unordered, data_file_missing: false, fault }
    }

    /// Writes the journal's changes to the fresh `store` and reports them.
    pub(crate) fn carry_out(self, store: &Store, report: &mut RecoveryReport) -> Result<()> {
        report.from_journal = self.newer.len() as u64;
        report.journal_fault = match &self.fault {
            _ if self.data_file_missing => Some("its data file is missing".to_owned()),
            fault => fault.as_ref().map(JournalFault::to_string),
        };
        for entry in &self.newer {
            let changes = entry.batch.clone();
            store.writer().write_blocking(move |change| change.replay(&changes))?;
        }
        if self.data_file_missing {
            let keys = self.newer.iter().flat_map(|entry| entry.batch.iter());
            let names: BTreeMap<_, _> = keys
                .filter(|(table, _, value)| *table == Table::Records && value.is_some())
                .map(|(_, key, _)| (key, record::describe_key(key)))
                .collect();
            report.doubtful.extend(names.into_values());
        }
        for (table, key, value) in self.unordered.iter().flat_map(|entry| entry.batch.iter()) {
            if table == Table::Records {
                set_aside(store, report, key, value)?;
            }
        }
        Ok(())
    }
}

/// Returns true if the data file certainly contains the entry: the entry follows an earlier checkpoint.
fn is_checkpointed(entry: &JournalEntry, found: &Findings) -> bool {
    match (entry.base, found.transaction) {
        _ if !found.is_newest_known => false,
        (Some(base), Some(transaction)) => base < transaction,
        // A journal of schema 3 keeps entries of earlier checkpoints after those of the last one.
        (None, _) => found.identity.checkpoint.is_some(),
        (Some(_), None) => false,
    }
}

fn fault(
    journal: &ReadableJournal,
    found: &Findings,
    newer: &[&JournalEntry],
) -> Option<JournalFault> {
    let missing = newer.iter().zip(0..).find(|(entry, number)| entry.number != *number);
    if let Some((_, number)) = missing {
        let highest = newer.iter().map(|entry| entry.number).max();
        return Some(JournalFault::Gap(number, highest.unwrap_or_default()));
    }
    let named = found.identity.journal?;
    let fits = |header: &Header| {
        Some(&header.uuid) == found.identity.uuid.as_ref()
            && (header.checkpoint == named || Some(header.checkpoint) == found.identity.checkpoint)
    };
    match &journal.header {
        None => Some(JournalFault::Header),
        Some(header) => (!fits(header)).then_some(JournalFault::OtherCheckpoint),
    }
}

/// Sets the record of an unordered entry aside, unless it equals the salvaged record.
fn set_aside(
    store: &Store,
    report: &mut RecoveryReport,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<()> {
    let name = record::describe_key(key);
    let Some(message) = value.and_then(|value| value::decode(key, value).ok()) else {
        if store.read(|snapshot| snapshot.has_key(key))? {
            report.unordered.push(format!("the journal deletes {name}, at an unknown time"));
        }
        return Ok(());
    };
    let Ok(Record { namespace, named: Some((kind, id)), .. }) = record::read(key, message) else {
        report.unordered.push(format!("the journal changes {name}, at an unknown time"));
        return Ok(());
    };
    let current = store.read(|snapshot| {
        Ok(snapshot.record(&namespace, kind, &id).ok().flatten().map(<[u8]>::to_vec))
    })?;
    if current.as_deref() == Some(message) {
        return Ok(());
    }
    let what = if kind == Kind::Image { "it was set aside" } else { "it was not used" };
    report.unordered.push(format!("the journal has another version of {name}: {what}"));
    if kind != Kind::Image {
        return Ok(());
    }
    report.set_aside += 1;
    let message = message.to_vec();
    store
        .writer()
        .write_blocking(move |c: &mut Transaction<'_>| c.put_aside(&namespace, kind, &id, &message))
}
