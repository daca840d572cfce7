//! The next expiring records, in order of time.
//!
//! The store lists expiring records by key, so finding the due ones there is a scan of the whole list. The
//! schedule keeps the next ones in order of time, in memory: an index on disk would cost every write
//! another entry and older stores a migration, and one scan after the start gives the same.
//!
//! **Invariant.** Once loaded, every record that expires before the [horizon](Schedule::horizon)
//! has an entry. The reverse need not hold: the record of an entry may have been replaced or removed.

use std::collections::BTreeSet;

use crate::model::UnixTime;
use crate::store::read::scan::RecordKey;

/// The most entries that are not yet due. Records that expire later are left to the next load.
pub const MAX_ENTRIES: usize = 65_536;

const FOREVER: UnixTime = UnixTime { seconds: i64::MAX, nanos: 0 };

/// A time, and the key of a record that expires then.
pub type Entry = (UnixTime, RecordKey);

/// The next expiring records.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: BTreeSet<Entry>,
    /// Records that expire later are not in the schedule. `None` before the first load: every record is
    /// added then.
    horizon: Option<UnixTime>,
    /// The most entries: those of the load, and [`MAX_ENTRIES`] more.
    limit: usize,
}

impl Schedule {
    /// Adds a record.
    pub fn insert(&mut self, entry: Entry) {
        if self.horizon.is_some_and(|horizon| entry.0 >= horizon) {
            return;
        }
        self.entries.insert(entry);
        if self.horizon.is_some() && self.entries.len() > self.limit.saturating_add(MAX_ENTRIES) {
            while self.entries.len() > self.limit
                && let Some((time, _)) = self.entries.pop_last()
            {
                self.horizon = Some(time);
            }
        }
    }

    /// Whether a record may have expired before `now`.
    pub fn is_due(&self, now: UnixTime) -> bool {
        self.needs_load(now) || self.entries.first().is_some_and(|(time, _)| *time < now)
    }

    /// Whether the due records are known only after a load.
    pub fn needs_load(&self, now: UnixTime) -> bool {
        self.horizon.is_none_or(|horizon| horizon < now)
    }

    /// Whether there was a load.
    pub fn was_loaded(&self) -> bool {
        self.limit > 0
    }

    /// Accepts every record from now on, as records that are added while the store is read must not be
    /// missed.
    pub fn begin_load(&mut self) {
        self.horizon = None;
    }

    /// Adds the records that were read from the store.
    pub fn end_load(&mut self, loaded: Loaded) {
        self.entries.extend(loaded.entries);
        self.limit = self.entries.len().saturating_add(MAX_ENTRIES);
        self.horizon = Some(loaded.horizon);
    }

    /// Removes and returns the records that expired before `now`.
    pub fn take_due(&mut self, now: UnixTime) -> BTreeSet<Entry> {
        let later = self.entries.split_off(&(now, RecordKey::first()));
        std::mem::replace(&mut self.entries, later)
    }
}

/// Entries read from the store: all due ones, and the next.
#[derive(Debug)]
pub struct Loaded {
    entries: BTreeSet<Entry>,
    due: usize,
    now: UnixTime,
    horizon: UnixTime,
}

impl Loaded {
    /// No entries.
    pub fn new(now: UnixTime) -> Self {
        Self { entries: BTreeSet::new(), due: 0, now, horizon: FOREVER }
    }

    /// Adds an entry. Beyond [`MAX_ENTRIES`] the latest ones are left out.
    pub fn add(&mut self, entry: Entry) {
        if entry.0 < self.now {
            self.due += 1;
        } else if entry.0 >= self.horizon {
            return;
        }
        self.entries.insert(entry);
        if self.entries.len() - self.due > MAX_ENTRIES
            && let Some((time, _)) = self.entries.pop_last()
        {
            self.horizon = time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Namespace;
    use crate::store::Kind;

    fn at(seconds: i64) -> UnixTime {
        UnixTime { seconds, nanos: 0 }
    }

    fn entry(seconds: i64, name: &str) -> Entry {
        (at(seconds), RecordKey::new(&Namespace::parse("n").unwrap(), Kind::Image, name))
    }

    #[test]
    fn what_is_due_comes_out_whenever_it_went_in() {
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(at(0)), "nothing is known before the load");
        schedule.insert(entry(5, "before"));
        let mut loaded = Loaded::new(at(10));
        for seconds in [1, 9, 10, 11] {
            loaded.add(entry(seconds, "loaded"));
        }
        schedule.begin_load();
        schedule.insert(entry(3, "during"));
        schedule.end_load(loaded);
        schedule.insert(entry(2, "after"));
        let due = schedule.take_due(at(10));
        let expected = [(1, "loaded"), (2, "after"), (3, "during"), (5, "before"), (9, "loaded")];
        assert!(due.into_iter().eq(expected.map(|(seconds, name)| entry(seconds, name))));
        assert!(!schedule.is_due(at(10)) && schedule.is_due(at(11)));
    }

    #[test]
    fn entries_are_bounded_and_what_is_left_out_makes_a_load() {
        let count = MAX_ENTRIES as i64;
        let mut loaded = Loaded::new(at(0));
        for seconds in -10..count + 10 {
            loaded.add(entry(seconds, "x"));
        }
        assert_eq!(loaded.entries.len(), MAX_ENTRIES + 10, "all that is due, and the next");
        let mut schedule = Schedule::default();
        schedule.end_load(loaded);
        assert!(!schedule.needs_load(at(count)) && schedule.needs_load(at(count + 1)));
        schedule.insert(entry(count, "left out"));
        assert_eq!(schedule.entries.len(), MAX_ENTRIES + 10);
        for number in 0..3 * MAX_ENTRIES {
            schedule.insert(entry(7, &number.to_string()));
        }
        assert!(schedule.entries.len() <= 3 * MAX_ENTRIES + 10);
        assert!(schedule.needs_load(at(count)));
    }
}
