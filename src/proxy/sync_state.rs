//! Which namespaces are *current*: those whose records in LMDB are known to equal containerd's.
//!
//! A namespace becomes current by a resync during which nothing put it in doubt. It ceases to be in
//! an event gap, while a Transfer runs in it, and after a write whose outcome is unknown. Only a
//! current one is read from LMDB while containerd can be asked.
//!
//! There is an entry for a namespace that containerd has, and for one in which a Transfer runs. A name
//! that only clients use leaves none: any client may ask for any name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Namespace;

/// What is known of all namespaces.
#[derive(Debug, Default)]
pub struct SyncState {
    known: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Events are coming in without a gap.
    following: bool,
    /// How often a namespace was put in doubt, whichever.
    doubts: u64,
    /// The last doubt of a namespace that has no entry: the one that an entry begins with.
    others: u64,
    spaces: HashMap<Namespace, NamespaceState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct NamespaceState {
    current: bool,
    /// It was current since the last gap in the events: nothing can have been missed.
    followed: bool,
    transfers: usize,
    /// When it was last put in doubt: a resync that began before is not enough.
    doubted: u64,
    /// What was last said in the log of records that a resync left out.
    said: u64,
}

/// A point in the history of all namespaces, taken before a resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

impl SyncState {
    /// Whether the namespace may be read from LMDB.
    pub fn is_synced(&self, namespace: &Namespace) -> bool {
        let known = self.lock();
        known.following
            && known.spaces.get(namespace).is_some_and(|s| s.current && s.transfers == 0)
    }

    /// Whether events are coming in.
    pub fn is_watching(&self) -> bool {
        self.lock().following
    }

    /// Notes that containerd has the namespace; says whether that is news.
    pub fn observe(&self, namespace: &Namespace) -> bool {
        let mut known = self.lock();
        let news = !known.spaces.contains_key(namespace);
        if news {
            known.entry(namespace);
        }
        news
    }

    /// How many namespaces something is kept of.
    pub fn count(&self) -> usize {
        self.lock().spaces.len()
    }

    /// Containerd does not have the namespace: nothing is kept of it, unless a Transfer runs in it.
    pub fn forget(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let Some(space) = known.spaces.get(namespace).copied() else { return };
        if space.transfers == 0 {
            known.others = known.others.max(space.doubted);
            known.spaces.remove(namespace);
        }
    }

    /// Events come in from now on, or no longer: then nothing is current.
    pub fn set_watching(&self, following: bool) {
        let mut known = self.lock();
        known.following = following;
        if !following {
            let doubt = known.next_doubt();
            known.others = doubt;
            for space in known.spaces.values_mut() {
                (space.current, space.doubted, space.followed) = (false, doubt, false);
            }
        }
    }

    /// What LMDB has of the namespace may not be what containerd has.
    pub fn invalidate(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let doubt = known.next_doubt();
        match known.spaces.get_mut(namespace) {
            Some(space) => (space.current, space.doubted) = (false, doubt),
            None => known.others = doubt,
        }
    }

    /// A Transfer begins in the namespace.
    pub fn transfer_begins(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let doubt = known.next_doubt();
        let space = known.entry(namespace);
        space.transfers += 1;
        (space.current, space.doubted) = (false, doubt);
    }

    /// A Transfer ended in the namespace; a resync is due.
    pub fn transfer_ends(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let doubt = known.next_doubt();
        if let Some(space) = known.spaces.get_mut(namespace) {
            space.transfers = space.transfers.saturating_sub(1);
            (space.current, space.doubted) = (false, doubt);
        }
    }

    /// Before a resync.
    pub fn begin_sync(&self) -> Generation {
        Generation(self.lock().doubts)
    }

    /// After a resync of a namespace that containerd has: it is current unless it was put in doubt since.
    /// Says whether.
    pub fn finish_sync(&self, namespace: &Namespace, mark: Generation) -> bool {
        let mut known = self.lock();
        let following = known.following;
        let space = known.entry(namespace);
        space.current = following && space.doubted <= mark.0;
        space.followed |= space.current;
        space.current
    }

    /// Whether every change of the namespace since it was last current was told by an event. If not,
    /// the containerd that answers now may be one that has lost its database.
    pub fn watched_since_sync(&self, namespace: &Namespace) -> bool {
        self.lock().spaces.get(namespace).is_some_and(|space| space.followed)
    }

    /// Whether it is news that a resync of the namespace left out records, which `hash` stands for.
    pub fn is_news(&self, namespace: &Namespace, hash: u64) -> bool {
        let mut known = self.lock();
        let space = known.spaces.get_mut(namespace);
        space.is_none_or(|space| std::mem::replace(&mut space.said, hash) != hash)
    }

    /// Nothing that is done under this lock can panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next_doubt(&mut self) -> u64 {
        self.doubts += 1;
        self.doubts
    }

    fn entry(&mut self, namespace: &Namespace) -> &mut NamespaceState {
        let doubted = self.others;
        let new = || NamespaceState { doubted, ..NamespaceState::default() };
        self.spaces.entry(namespace.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_current_after_a_resync_in_which_nothing_happened() {
        let (spaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        let resync = || {
            let mark = spaces.begin_sync();
            spaces.finish_sync(&ns, mark)
        };
        assert!(!resync(), "events are not coming in");
        spaces.set_watching(true);
        assert!(!spaces.watched_since_sync(&ns));
        assert!(resync() && spaces.is_synced(&ns) && spaces.watched_since_sync(&ns));
        let mark = spaces.begin_sync();
        spaces.invalidate(&ns);
        assert!(!spaces.finish_sync(&ns, mark) && !spaces.is_synced(&ns));
        assert!(spaces.watched_since_sync(&ns), "a doubt is no gap");
        assert!(resync());
        spaces.transfer_begins(&ns);
        assert!(resync() && !spaces.is_synced(&ns), "a transfer runs");
        spaces.transfer_ends(&ns);
        assert!(!spaces.is_synced(&ns), "what it brought is not known");
        assert!(resync() && spaces.is_synced(&ns));
        spaces.set_watching(false);
        spaces.set_watching(true);
        assert!(!spaces.is_synced(&ns) && !spaces.watched_since_sync(&ns), "there was a gap");
    }

    #[test]
    fn a_name_that_only_clients_use_leaves_no_entry() {
        let (spaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        spaces.set_watching(true);
        spaces.invalidate(&ns);
        spaces.begin_sync();
        assert!(!spaces.is_synced(&ns) && !spaces.watched_since_sync(&ns));
        assert_eq!(spaces.count(), 0);
        spaces.transfer_begins(&ns);
        spaces.forget(&ns);
        assert_eq!(spaces.count(), 1, "a transfer runs");
        spaces.transfer_ends(&ns);
        spaces.forget(&ns);
        assert_eq!(spaces.count(), 0);
    }

    #[test]
    fn what_is_forgotten_comes_back_in_doubt() {
        let (spaces, ns) = (SyncState::default(), Namespace::parse("n").unwrap());
        spaces.set_watching(true);
        let before = spaces.begin_sync();
        spaces.observe(&ns);
        spaces.invalidate(&ns);
        spaces.forget(&ns);
        assert!(!spaces.finish_sync(&ns, before), "it was put in doubt after the mark");
        spaces.forget(&ns);
        let before = spaces.begin_sync();
        spaces.invalidate(&ns);
        assert!(!spaces.finish_sync(&ns, before), "that it had no entry makes no difference");
        let after = spaces.begin_sync();
        assert!(spaces.finish_sync(&ns, after));
    }
}
