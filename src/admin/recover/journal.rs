//! Which changes of a journal are newer than the records that were salvaged.
//!
//! After a kill the journal still holds entries that a checkpoint has taken, and it may belong to
//! another store. So an entry counts only where its store and its checkpoint are those of the data
//! file. One that follows an earlier LMDB transaction is already in the data file. Any other cannot be
//! ordered: its records are set aside and named.

use std::collections::BTreeMap;

use crate::admin::record::{self, Record};
use crate::admin::recover::report::Report;
use crate::model::Result;
use crate::store::journal::entry::Entry;
use crate::store::journal::header::Header;
use crate::store::journal::replay::{Fault, Remains};
use crate::store::recovery::salvage::Findings;
use crate::store::schema::table::Table;
use crate::store::schema::value;
use crate::store::{Kind, Records, Store, Transaction};

/// What is done with each entry.
pub struct Plan<'j> {
    /// They follow the data file's state, in order.
    newer: Vec<&'j Entry>,
    /// They may be older or newer than that state.
    unordered: Vec<&'j Entry>,
    /// There is no data file to be newer than.
    alone: bool,
    fault: Option<Fault>,
}

impl<'j> Plan<'j> {
    /// Decides, by what the data file says of itself, if there is one, and by the store that the
    /// folder remembers.
    pub fn new(journal: &'j Remains, held: Option<&str>, found: Option<&Findings>) -> Self {
        let Some(found) = found else {
            let mut newer: Vec<_> = journal.entries.iter().collect();
            newer.sort_by_key(|entry| (entry.base, entry.number));
            return Self { newer, unordered: Vec::new(), alone: true, fault: None };
        };
        let (mut newer, mut unordered) = (Vec::new(), Vec::new());
        // If data file and folder disagree on the store, either may be the damaged one.
        let known = match (found.facts.uuid.as_deref(), held) {
            (Some(uuid), Some(held)) if uuid != held => None,
            (uuid, held) => uuid.or(held),
        };
        let header_fits =
            journal.header.as_ref().is_some_and(|header| Some(header.uuid.as_str()) == known);
        for entry in &journal.entries {
            let is_ours = known == Some(entry.uuid.as_str());
            if is_ours && found.facts.checkpoint == Some(entry.checkpoint) {
                newer.push(entry);
            } else if known.is_some() && !is_ours {
                // Below our header such entries are what an earlier file left in these sectors.
                unordered.extend((!header_fits).then_some(entry));
            } else if !(is_ours && is_taken(entry, found)) {
                unordered.push(entry);
            }
        }
        newer.sort_by_key(|entry| entry.number);
        let fault = fault(journal, found, &newer);
        Self { newer, unordered, alone: false, fault }
    }

    /// Makes the changes in the fresh `store`, and reports them.
    pub fn carry_out(self, store: &Store, report: &mut Report) -> Result<()> {
        report.from_journal = self.newer.len() as u64;
        report.journal_fault = match &self.fault {
            _ if self.alone => Some("its data file is missing".to_owned()),
            fault => fault.as_ref().map(Fault::to_string),
        };
        for entry in &self.newer {
            let changes = entry.batch.clone();
            store.writer().write_blocking(move |change| change.replay(&changes))?;
        }
        if self.alone {
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

/// Whether a checkpoint has surely taken the entry: it follows an earlier one than the data file's.
fn is_taken(entry: &Entry, found: &Findings) -> bool {
    match (entry.base, found.transaction) {
        _ if !found.certain => false,
        (Some(base), Some(transaction)) => base < transaction,
        // A journal of schema 3 keeps the entries of earlier checkpoints behind the last one's.
        (None, _) => found.facts.checkpoint.is_some(),
        (Some(_), None) => false,
    }
}

fn fault(journal: &Remains, found: &Findings, newer: &[&Entry]) -> Option<Fault> {
    let missing = newer.iter().zip(0..).find(|(entry, number)| entry.number != *number);
    if let Some((_, number)) = missing {
        let highest = newer.iter().map(|entry| entry.number).max();
        return Some(Fault::Gap(number, highest.unwrap_or_default()));
    }
    let named = found.facts.journal?;
    let fits = |header: &Header| {
        Some(&header.uuid) == found.facts.uuid.as_ref()
            && (header.checkpoint == named || Some(header.checkpoint) == found.facts.checkpoint)
    };
    match &journal.header {
        None => Some(Fault::Header),
        Some(header) => (!fits(header)).then_some(Fault::OtherCheckpoint),
    }
}

/// Keeps a record of an entry that cannot be ordered beside the others, unless it is the one that was
/// salvaged.
fn set_aside(store: &Store, report: &mut Report, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let name = record::describe_key(key);
    let Some(message) = value.and_then(|value| value::unseal(key, value).ok()) else {
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
    report.aside += 1;
    let message = message.to_vec();
    store
        .writer()
        .write_blocking(move |c: &mut Transaction<'_>| c.put_aside(&namespace, kind, &id, &message))
}
