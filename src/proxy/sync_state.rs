//! The state of synchronization. A namespace is *synced* while its records in LMDB equal containerd's.
//!
//! A reconciliation makes a namespace synced, if nothing invalidates the namespace meanwhile. A gap in
//! the events, a Transfer, and a write with an unknown outcome invalidate it. While containerd
//! answers, only a synced namespace is read from LMDB.
//!
//! Each namespace of containerd has an entry, and so has each namespace in which a Transfer runs. A
//! name that only a client uses gets no entry, because a client may use any name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Namespace;

/// The state of all namespaces.
#[derive(Debug, Default)]
pub struct SyncState {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Events arrive without a gap.
    watching: bool,
    /// The number of invalidations, of all namespaces.
    generation: u64,
    /// The last invalidation of a namespace without an entry. A new entry starts with it.
    absent_invalidated: u64,
    namespaces: HashMap<Namespace, NamespaceState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct NamespaceState {
    synced: bool,
    /// The namespace has been synced since the last gap, so it has missed no event.
    watched: bool,
    transfers: usize,
    /// The generation of the last invalidation. A reconciliation that began earlier does not count.
    invalidated: u64,
    /// The hash of the skipped records that the log named last.
    logged_hash: u64,
}

/// A point in the history of invalidations, taken before a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

impl SyncState {
    /// Whether the namespace is synced: reads may use LMDB.
    pub fn is_synced(&self, namespace: &Namespace) -> bool {
        let state = self.lock();
        state.watching
            && state.namespaces.get(namespace).is_some_and(|s| s.synced && s.transfers == 0)
    }

    /// Whether events arrive without a gap.
    pub fn is_watching(&self) -> bool {
        self.lock().watching
    }

    /// Notes that containerd has the namespace. Returns whether the namespace is new.
    pub fn observe(&self, namespace: &Namespace) -> bool {
        let mut state = self.lock();
        let is_new = !state.namespaces.contains_key(namespace);
        if is_new {
            state.entry(namespace);
        }
        is_new
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        self.lock().namespaces.len()
    }

    /// Removes the entry of a namespace that containerd lacks, unless a Transfer runs in it.
    pub fn forget(&self, namespace: &Namespace) {
        let mut state = self.lock();
        let Some(space) = state.namespaces.get(namespace).copied() else { return };
        if space.transfers == 0 {
            state.absent_invalidated = state.absent_invalidated.max(space.invalidated);
            state.namespaces.remove(namespace);
        }
    }

    /// Notes whether events arrive from now on. If they do not, no namespace is synced.
    pub fn set_watching(&self, watching: bool) {
        let mut state = self.lock();
        state.watching = watching;
        if !watching {
            let generation = state.next_generation();
            state.absent_invalidated = generation;
            for space in state.namespaces.values_mut() {
                (space.synced, space.invalidated, space.watched) = (false, generation, false);
            }
        }
    }

    /// Notes that the namespace in LMDB may differ from containerd's.
    pub fn invalidate(&self, namespace: &Namespace) {
        let mut state = self.lock();
        let generation = state.next_generation();
        match state.namespaces.get_mut(namespace) {
            Some(space) => (space.synced, space.invalidated) = (false, generation),
            None => state.absent_invalidated = generation,
        }
    }

    /// Notes that a Transfer begins in the namespace.
    pub fn transfer_begins(&self, namespace: &Namespace) {
        let mut state = self.lock();
        let generation = state.next_generation();
        let space = state.entry(namespace);
        space.transfers += 1;
        (space.synced, space.invalidated) = (false, generation);
    }

    /// Notes that a Transfer ended in the namespace. The caller schedules a reconciliation.
    pub fn transfer_ends(&self, namespace: &Namespace) {
        let mut state = self.lock();
        let generation = state.next_generation();
        if let Some(space) = state.namespaces.get_mut(namespace) {
            space.transfers = space.transfers.saturating_sub(1);
            (space.synced, space.invalidated) = (false, generation);
        }
    }

    /// Begins a reconciliation.
    pub fn begin_sync(&self) -> Generation {
        Generation(self.lock().generation)
    }

    /// Finishes a reconciliation of a namespace that containerd has. The namespace is synced unless it
    /// was invalidated since `begin`. Returns whether it is synced.
    pub fn finish_sync(&self, namespace: &Namespace, begin: Generation) -> bool {
        let mut state = self.lock();
        let watching = state.watching;
        let space = state.entry(namespace);
        space.synced = watching && space.invalidated <= begin.0;
        space.watched |= space.synced;
        space.synced
    }

    /// Whether events have reported every change of the namespace since it was last synced. If not,
    /// containerd may have lost its database meanwhile.
    pub fn watched_since_sync(&self, namespace: &Namespace) -> bool {
        self.lock().namespaces.get(namespace).is_some_and(|space| space.watched)
    }

    /// Whether the log has not named these skipped records of the namespace yet. `hash` identifies
    /// them.
    pub fn is_news(&self, namespace: &Namespace, hash: u64) -> bool {
        let mut state = self.lock();
        let space = state.namespaces.get_mut(namespace);
        space.is_none_or(|space| std::mem::replace(&mut space.logged_hash, hash) != hash)
    }

    /// Locks the state. Code that holds the lock cannot panic, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn entry(&mut self, namespace: &Namespace) -> &mut NamespaceState {
        let invalidated = self.absent_invalidated;
        let new = || NamespaceState { invalidated, ..NamespaceState::default() };
        self.namespaces.entry(namespace.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_current_after_a_resync_in_which_nothing_happened() {
        let (namespaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        let resync = || {
            let mark = namespaces.begin_sync();
            namespaces.finish_sync(&ns, mark)
        };
        assert!(!resync(), "events are not coming in");
        namespaces.set_watching(true);
        assert!(!namespaces.watched_since_sync(&ns));
        assert!(resync() && namespaces.is_synced(&ns) && namespaces.watched_since_sync(&ns));
        let mark = namespaces.begin_sync();
        namespaces.invalidate(&ns);
        assert!(!namespaces.finish_sync(&ns, mark) && !namespaces.is_synced(&ns));
        assert!(namespaces.watched_since_sync(&ns), "an invalidation is no gap");
        assert!(resync());
        namespaces.transfer_begins(&ns);
        assert!(resync() && !namespaces.is_synced(&ns), "a transfer runs");
        namespaces.transfer_ends(&ns);
        assert!(!namespaces.is_synced(&ns), "the images of the transfer are not known");
        assert!(resync() && namespaces.is_synced(&ns));
        namespaces.set_watching(false);
        namespaces.set_watching(true);
        assert!(
            !namespaces.is_synced(&ns) && !namespaces.watched_since_sync(&ns),
            "there was a gap"
        );
    }

    #[test]
    fn a_name_that_only_clients_use_leaves_no_entry() {
        let (namespaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        namespaces.set_watching(true);
        namespaces.invalidate(&ns);
        namespaces.begin_sync();
        assert!(!namespaces.is_synced(&ns) && !namespaces.watched_since_sync(&ns));
        assert_eq!(namespaces.count(), 0);
        namespaces.transfer_begins(&ns);
        namespaces.forget(&ns);
        assert_eq!(namespaces.count(), 1, "a transfer runs");
        namespaces.transfer_ends(&ns);
        namespaces.forget(&ns);
        assert_eq!(namespaces.count(), 0);
    }

    #[test]
    fn what_is_forgotten_comes_back_in_doubt() {
        let (namespaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        namespaces.set_watching(true);
        let before = namespaces.begin_sync();
        namespaces.observe(&ns);
        namespaces.invalidate(&ns);
        namespaces.forget(&ns);
        assert!(!namespaces.finish_sync(&ns, before), "it was invalidated after the begin");
        namespaces.forget(&ns);
        let before = namespaces.begin_sync();
        namespaces.invalidate(&ns);
        assert!(!namespaces.finish_sync(&ns, before), "that it had no entry makes no difference");
        let after = namespaces.begin_sync();
        assert!(namespaces.finish_sync(&ns, after));
    }
}
