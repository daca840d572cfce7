//! The records that expire next, in order of time.
//!
//! The store's list of expiring records is in the order of keys, so a search for due records reads the whole
//! list. This schedule has the next entries in order of time. It is in memory. An order on disk would cost
//! each write another entry, and older stores a migration. One scan of the list after the start has the same
//! effect.
//!
//! **Invariant.** Once loaded, every record that expires before the [horizon](Schedule::horizon)
//! has an entry. The reverse is not guaranteed: the record of an entry may have changed, or been removed. Only
//! the writer thread removes an entry, in the job that removes the record or finds that it has changed. So no
//! later change of that record can lose its entry.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::model::UnixTime;
use crate::store::read::scan::RecordKey;

/// The most entries after a load. Changes may add as many again. The next load adds records that expire
/// later.
pub(crate) const MAX_ENTRIES: usize = 8_192;

const FOREVER: UnixTime = UnixTime { seconds: i64::MAX, nanos: 0 };

/// The time when a record expires, and the record's key.
pub(crate) type ExpiryEntry = (UnixTime, RecordKey);

/// The records that expire next.
#[derive(Debug)]
pub(crate) struct Schedule {
    entries: BTreeSet<ExpiryEntry>,
    /// The earliest time of the entries that were dropped.
    horizon: UnixTime,
    is_loaded: bool,
    was_loaded: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        let entries = BTreeSet::new();
        Self { entries, horizon: FOREVER, is_loaded: false, was_loaded: false }
    }
}

impl Schedule {
    /// Adds an entry, unless the next load adds it.
    pub(crate) fn insert(&mut self, entry: ExpiryEntry) {
        if entry.0 < self.horizon {
            self.entries.insert(entry);
            self.trim();
        }
    }

    fn trim(&mut self) {
        if self.entries.len() > 2 * MAX_ENTRIES {
            while self.entries.len() > MAX_ENTRIES
                && let Some((time, _)) = self.entries.pop_last()
            {
                self.horizon = time;
            }
        }
    }

    /// Whether a record may have expired before `now`.
    pub(crate) fn is_due(&self, now: UnixTime) -> bool {
        self.needs_load(now) || self.entries.first().is_some_and(|(time, _)| *time < now)
    }

    /// Whether the schedule may lack due records, so that only the store has all of them.
    pub(crate) fn needs_load(&self, now: UnixTime) -> bool {
        !self.is_loaded || self.horizon < now
    }

    /// Whether the schedule has ever been loaded from the store.
    pub(crate) fn was_loaded(&self) -> bool {
        self.was_loaded
    }

    /// Accepts every entry from now on: changes add entries while the load reads the store.
    pub(crate) fn begin_load(&mut self) {
        self.invalidate();
        self.horizon = FOREVER;
    }

    /// Marks the schedule as incomplete, so that the next run reads the store.
    pub(crate) fn invalidate(&mut self) {
        self.is_loaded = false;
    }

    /// Adds the entries that the load has read from the store.
    pub(crate) fn end_load(&mut self, loaded: Loaded) {
        let noted = std::mem::replace(&mut self.entries, loaded.entries);
        self.entries.extend(noted);
        self.horizon = self.horizon.min(loaded.horizon);
        (self.is_loaded, self.was_loaded) = (true, true);
        self.trim();
    }

    /// The entries of records that expired before `now`. They stay in the schedule.
    pub(crate) fn due(&self, now: UnixTime) -> Vec<ExpiryEntry> {
        let before = (Bound::Unbounded, Bound::Excluded((now, RecordKey::first())));
        self.entries.range(before).cloned().collect()
    }

    /// Removes an entry. Only the writer thread may call this.
    pub(crate) fn remove(&mut self, entry: &ExpiryEntry) {
        self.entries.remove(entry);
    }
}

/// The next entries, read from the store.
#[derive(Debug)]
pub(crate) struct Loaded {
    entries: BTreeSet<ExpiryEntry>,
    horizon: UnixTime,
}

impl Default for Loaded {
    fn default() -> Self {
        Self { entries: BTreeSet::new(), horizon: FOREVER }
    }
}

impl Loaded {
    /// Adds an entry. Beyond [`MAX_ENTRIES`] entries, those with the latest times are dropped.
    pub(crate) fn add(&mut self, entry: ExpiryEntry) {
        if entry.0 >= self.horizon {
            return;
        }
        self.entries.insert(entry);
        if self.entries.len() > MAX_ENTRIES
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

    fn entry(seconds: i64, name: &str) -> ExpiryEntry {
        (at(seconds), RecordKey::new(&Namespace::parse("n").unwrap(), Kind::Image, name))
    }

    #[test]
    fn entries_from_before_during_and_after_a_load_become_due() {
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(at(0)), "nothing is known before the load");
        schedule.insert(entry(5, "before"));
        let mut loaded = Loaded::default();
        for seconds in [1, 9, 10, 11] {
            loaded.add(entry(seconds, "loaded"));
        }
        schedule.begin_load();
        schedule.insert(entry(3, "during"));
        schedule.end_load(loaded);
        schedule.insert(entry(2, "after"));
        let expected = [(1, "loaded"), (2, "after"), (3, "during"), (5, "before"), (9, "loaded")];
        assert!(schedule.due(at(10)).into_iter().eq(expected.map(|(s, name)| entry(s, name))));
        for gone in schedule.due(at(10)) {
            schedule.remove(&gone);
        }
        assert!(!schedule.is_due(at(10)) && schedule.is_due(at(11)));
        schedule.invalidate();
        assert!(schedule.is_due(at(0)));
    }

    #[test]
    fn entries_are_bounded_and_a_dropped_entry_causes_a_load() {
        let count = MAX_ENTRIES as i64;
        let mut schedule = Schedule::default();
        for number in 0..5 * MAX_ENTRIES {
            schedule.insert(entry(number as i64, "before a load"));
            assert!(schedule.entries.len() <= 2 * MAX_ENTRIES);
        }
        let mut loaded = Loaded::default();
        for seconds in 0..count + 10 {
            loaded.add(entry(seconds, "x"));
        }
        assert_eq!(loaded.entries.len(), MAX_ENTRIES);
        let mut schedule = Schedule::default();
        schedule.begin_load();
        schedule.end_load(loaded);
        assert!(!schedule.needs_load(at(count)) && schedule.needs_load(at(count + 1)));
        schedule.insert(entry(count, "left out"));
        assert_eq!(schedule.entries.len(), MAX_ENTRIES);
        for number in 0..3 * MAX_ENTRIES {
            schedule.insert(entry(7, &number.to_string()));
            assert!(schedule.entries.len() <= 2 * MAX_ENTRIES);
        }
        assert!(schedule.needs_load(at(count)));
        // The schedule accepts every entry during a load.
        schedule.begin_load();
        schedule.insert(entry(count + 20, "during"));
        schedule.end_load(Loaded::default());
        assert!(!schedule.needs_load(at(count + 21)));
        assert!(schedule.due(at(count + 21)).contains(&entry(count + 20, "during")));
    }
}
