//! What is known of containerd's namespaces: whether events of one were missed since it was reconciled.
//!
//! Reads do not depend on it. It decides what becomes of an image that containerd no longer has: after a
//! gap in the events containerd may have lost its database, so the image is set aside instead of
//! deleted.
//!
//! Each namespace of containerd has an entry. A name that only a client uses gets none, because a client
//! may use any name.

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
    /// The gaps so far.
    gaps: u64,
    namespaces: HashMap<Namespace, NamespaceState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct NamespaceState {
    /// The namespace has been reconciled since the last gap, so it has missed no event.
    watched: bool,
    /// The hash of the skipped records that the log named last.
    logged_hash: u64,
}

/// The number of gaps before a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gaps(u64);

impl SyncState {
    /// Whether events arrive without a gap.
    pub fn is_watching(&self) -> bool {
        self.lock().watching
    }

    /// Notes that containerd has the namespace. Returns whether the namespace is new.
    pub fn observe(&self, namespace: &Namespace) -> bool {
        let mut state = self.lock();
        let is_new = !state.namespaces.contains_key(namespace);
        if is_new {
            state.namespaces.insert(namespace.clone(), NamespaceState::default());
        }
        is_new
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        self.lock().namespaces.len()
    }

    /// Removes the entry of a namespace that containerd lacks.
    pub fn forget(&self, namespace: &Namespace) {
        self.lock().namespaces.remove(namespace);
    }

    /// Notes whether events arrive from now on.
    pub fn set_watching(&self, watching: bool) {
        let mut state = self.lock();
        state.watching = watching;
        if !watching {
            state.gaps += 1;
            state.namespaces.values_mut().for_each(|space| space.watched = false);
        }
    }

    /// Begins a reconciliation.
    pub fn begin_sync(&self) -> Gaps {
        Gaps(self.lock().gaps)
    }

    /// Finishes a reconciliation of a namespace that containerd has. Returns whether no event has been
    /// missed since its begin.
    pub fn finish_sync(&self, namespace: &Namespace, begin: Gaps) -> bool {
        let mut state = self.lock();
        let is_watched = state.watching && state.gaps == begin.0;
        let space = state.namespaces.entry(namespace.clone()).or_default();
        space.watched |= is_watched;
        is_watched
    }

    /// Whether events have reported every change of the namespace since it was last reconciled. If not,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_watched_after_a_reconciliation_without_a_gap() {
        let (state, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        let reconcile = || state.finish_sync(&ns, state.begin_sync());
        assert!(!reconcile() && !state.watched_since_sync(&ns), "events do not arrive");
        state.set_watching(true);
        assert!(!state.watched_since_sync(&ns));
        assert!(reconcile() && state.watched_since_sync(&ns));
        state.set_watching(false);
        state.set_watching(true);
        assert!(!state.watched_since_sync(&ns), "there was a gap");
        let begin = state.begin_sync();
        state.set_watching(false);
        state.set_watching(true);
        assert!(!state.finish_sync(&ns, begin), "there was a gap meanwhile");
        assert!(!state.watched_since_sync(&ns));
    }

    #[test]
    fn a_name_that_only_clients_use_leaves_no_entry() {
        let (state, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        state.set_watching(true);
        state.begin_sync();
        assert!(!state.watched_since_sync(&ns) && state.is_news(&ns, 1));
        assert_eq!(state.count(), 0);
        assert!(state.observe(&ns) && !state.observe(&ns));
        state.forget(&ns);
        assert_eq!(state.count(), 0);
    }
}
