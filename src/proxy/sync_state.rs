//! The synchronization state of each namespace: whether the daemon has missed events of the namespace since it
//! was reconciled.
//!
//! Reads do not depend on this state. It matters for an image that containerd no longer has. Without a gap in
//! the events, a client has deleted the image, so the copy is deleted too. After a gap, containerd may have
//! lost its database, so the copy is set aside.
//!
//! Each namespace of containerd has an entry. A name that only a client uses gets none, because a client
//! may use any name.

use std::collections::HashMap;

use parking_lot::Mutex;

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
    /// The number of gaps so far.
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
pub(crate) struct Gaps(u64);

impl SyncState {
    /// Whether events arrive without a gap.
    pub fn is_watching(&self) -> bool {
        self.inner.lock().watching
    }

    /// Notes that containerd has the namespace. Returns whether the namespace is new.
    pub(crate) fn observe(&self, namespace: &Namespace) -> bool {
        let mut state = self.inner.lock();
        let is_new = !state.namespaces.contains_key(namespace);
        if is_new {
            state.namespaces.insert(namespace.clone(), NamespaceState::default());
        }
        is_new
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        self.inner.lock().namespaces.len()
    }

    /// Removes the entry of a namespace that containerd lacks.
    pub fn forget(&self, namespace: &Namespace) {
        self.inner.lock().namespaces.remove(namespace);
    }

    /// Notes whether events arrive from now on.
    pub(crate) fn set_watching(&self, watching: bool) {
        let mut state = self.inner.lock();
        state.watching = watching;
        if !watching {
            state.gaps += 1;
            state.namespaces.values_mut().for_each(|entry| entry.watched = false);
        }
    }

    /// Begins a reconciliation.
    pub(crate) fn begin_sync(&self) -> Gaps {
        Gaps(self.inner.lock().gaps)
    }

    /// Finishes a reconciliation of a namespace that containerd has. Returns whether no event has been
    /// missed since its begin.
    pub(crate) fn finish_sync(&self, namespace: &Namespace, begin: Gaps) -> bool {
        let mut state = self.inner.lock();
        let is_watched = state.watching && state.gaps == begin.0;
        let entry = state.namespaces.entry(namespace.clone()).or_default();
        entry.watched |= is_watched;
        is_watched
    }

    /// Whether events have reported every change of the namespace since it was last reconciled. If not,
    /// containerd may have lost its database meanwhile.
    pub fn watched_since_sync(&self, namespace: &Namespace) -> bool {
        self.inner.lock().namespaces.get(namespace).is_some_and(|entry| entry.watched)
    }

    /// Keeps the hash of the namespace's skipped records. Returns whether the log must name them, because the hash
    /// differs from the last one.
    pub(crate) fn record_skipped(&self, namespace: &Namespace, hash: u64) -> bool {
        let mut state = self.inner.lock();
        let entry = state.namespaces.get_mut(namespace);
        entry.is_none_or(|entry| std::mem::replace(&mut entry.logged_hash, hash) != hash)
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
        assert!(!state.watched_since_sync(&ns) && state.record_skipped(&ns, 1));
        assert_eq!(state.count(), 0);
        assert!(state.observe(&ns) && !state.observe(&ns));
        state.forget(&ns);
        assert_eq!(state.count(), 0);
    }
}
