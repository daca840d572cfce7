//! Reads the log for `check`: whether it is whole, and whether it agrees with the records.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use go_compat::quote::quote;

use crate::api::catalog::Change;
use crate::model::image::encoded::Encoded;
use crate::model::{Namespace, Result};
use crate::store::Snapshot;
use crate::store::changelog::{entry, keep};
use crate::store::error::lmdb_error;
use crate::store::schema::keys::{Kind, key};
use crate::store::schema::log_meta::LogMeta;
use crate::store::schema::table::Table;
use crate::store::schema::value;

/// The result of the audit.
#[derive(Debug, Default)]
pub(crate) struct LogAudit {
    /// The oldest and the newest entry; `None` while the log is off.
    pub(crate) ends: Option<LogEnds>,
    /// The number of entries.
    pub(crate) entries: u64,
    /// The damage, one line for each place.
    pub(crate) damage: Vec<String>,
}

/// The ends of the log. `last` is less than `first` if the log has no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnds {
    /// Number of the oldest entry.
    pub(crate) first: u64,
    /// Number of the newest entry.
    pub(crate) last: u64,
}

/// The state of an image in the log, as far as a comparison needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoggedState {
    /// There is no image.
    Missing,
    /// The hash of the whole state.
    Image(u64),
    /// The log has only the digest of the target.
    Unknown,
}

impl LoggedState {
    fn new(state: Option<&[u8]>, is_truncated: bool, hasher: &RandomState) -> Self {
        match state {
            None => Self::Missing,
            Some(_) if is_truncated => Self::Unknown,
            Some(state) => Self::Image(hasher.hash_one(state)),
        }
    }

    /// Whether the two may be the same state.
    fn may_equal(self, other: Self) -> bool {
        match (self, other) {
            (Self::Missing, other) | (other, Self::Missing) => other == Self::Missing,
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            (one, other) => one == other,
        }
    }
}

/// The last entry about an image.
struct LoggedImage {
    /// Name and namespace, for an error.
    name: String,
    /// Number of the image's last entry.
    seq: u64,
    /// The state after that entry.
    state: LoggedState,
}

#[derive(Default)]
struct Audit {
    found: LogAudit,
    /// The chain of the previous entry, if that entry was whole.
    previous_chain: Option<u64>,
    /// The images of the log, by the keys of their records.
    images: HashMap<Vec<u8>, LoggedImage>,
    hasher: RandomState,
}

impl Snapshot<'_> {
    /// Reads the whole log. Each entry must be whole and follow the entry before it. Its state before the
    /// change must be the state after the previous change of the image in the log. The last state of an
    /// image must be that of its record.
    pub(crate) fn audit_log(&self, progress: &mut dyn FnMut()) -> Result<LogAudit> {
        let (txn, tables) = self.view.base();
        let meta = LogMeta::read(txn, tables).map_err(|e| lmdb_error("reading the log", &e))?;
        let mut audit = Audit::default();
        let mut next = meta.first;
        for pair in self.view.range_from(Table::Log, b"")? {
            let (key, stored) = pair?;
            progress();
            audit.found.entries += 1;
            let Some(seq) = keep::seq(key) else {
                audit.damage("a key of the log has another length than a number".into());
                continue;
            };
            if seq != next {
                audit.damage(format!("entry {seq} of the log comes where {next} is expected"));
                audit.previous_chain = None;
            }
            next = seq.saturating_add(1);
            audit.entry(seq, value::decode(key, stored).ok());
        }
        if meta.epoch.is_some() {
            audit.found.ends = Some(LogEnds { first: meta.first, last: next.saturating_sub(1) });
        } else if audit.found.entries > 0 {
            audit.damage("the log is off, and has entries".into());
        }
        self.compare(&mut audit)?;
        Ok(audit.found)
    }

    /// Compares the last state of each image in the log with its record. The audit of the records reports a
    /// damaged record.
    fn compare(&self, audit: &mut Audit) -> Result<()> {
        for (key, LoggedImage { name, seq, state: known }) in std::mem::take(&mut audit.images) {
            let stored = self.view.get(Table::Records, &key)?;
            let state = match stored.map(|stored| value::decode(&key, stored)) {
                None => None,
                Some(Ok(record)) => match Encoded::new(record) {
                    Some(image) => Some(image.without_name()),
                    None => continue,
                },
                Some(Err(_)) => continue,
            };
            if !known.may_equal(LoggedState::new(state, false, &audit.hasher)) {
                audit.damage(format!(
                    "entry {seq} of the log is the last of image {name}, and has not the state of its record"
                ));
            }
        }
        Ok(())
    }
}

impl Audit {
    fn damage(&mut self, what: String) {
        self.found.damage.push(what);
    }

    fn entry(&mut self, seq: u64, entry: Option<&[u8]>) {
        let Some(entry) = entry else {
            self.previous_chain = None;
            return self.damage(format!("entry {seq} of the log: the checksum is wrong"));
        };
        let read =
            entry::position(entry).filter(|position| position.seq == seq).zip(entry::decode(entry));
        let Some((position, change)) = read else {
            self.previous_chain = None;
            return self.damage(format!("entry {seq} of the log is not one that can be read"));
        };
        let follows = match self.previous_chain {
            Some(chain) => entry::follows(entry, chain),
            // The log no longer has the entry before the oldest one.
            None => seq != 1 || entry::follows(entry, 0),
        };
        if !follows {
            self.damage(format!("entry {seq} of the log does not follow the one before"));
        }
        self.previous_chain = Some(position.chain);
        self.image(seq, entry, &change);
    }

    fn image(&mut self, seq: u64, entry: &[u8], change: &Change) {
        let Ok(namespace) = Namespace::parse(&change.namespace) else {
            return self.damage(format!("entry {seq} of the log names no namespace"));
        };
        let [before, after] = entry::states(entry);
        let known = |state| LoggedState::new(state, change.truncated, &self.hasher);
        let (before, after) = (known(before), known(after));
        let key = key(&namespace, Kind::Image, &change.name);
        let name = format!("{} in namespace {namespace}", quote(&change.name));
        let earlier = self.images.insert(key, LoggedImage { name, seq, state: after });
        if let Some(LoggedImage { name, seq: earlier, state }) = earlier
            && !state.may_equal(before)
        {
            self.damage(format!(
                "entry {seq} of the log replaces another state of image {name} than entry {earlier} left"
            ));
        }
    }
}
