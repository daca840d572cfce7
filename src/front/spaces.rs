//! Which namespaces are *current*: those whose records in LMDB are known to equal containerd's.
//!
//! A namespace becomes current by a resync during which nothing put it in doubt. It ceases to be in
//! an event gap, while a Transfer runs in it, and after a write whose outcome is unknown. Only a
//! current one is read from LMDB while containerd can be asked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Namespace;

/// What is known of all namespaces.
#[derive(Debug, Default)]
pub struct Spaces {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Events are coming in without a gap.
    following: bool,
    spaces: HashMap<Namespace, Space>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Space {
    current: bool,
    /// It was current since the last gap in the events: nothing can have been missed.
    followed: bool,
    transfers: usize,
    /// How often it was put in doubt: a resync that began before is not enough.
    doubts: u64,
}

/// A point in the history of a namespace, taken before a resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Spaces {
    /// Whether the namespace may be read from LMDB.
    pub fn is_current(&self, namespace: &Namespace) -> bool {
        let known = self.lock();
        known.following
            && known.spaces.get(namespace).is_some_and(|s| s.current && s.transfers == 0)
    }

    /// Whether events are coming in.
    pub fn is_following(&self) -> bool {
        self.lock().following
    }

    /// Notes that the namespace is there; says whether that is news.
    pub fn meet(&self, namespace: &Namespace) -> bool {
        let mut known = self.lock();
        let news = !known.spaces.contains_key(namespace);
        known.spaces.entry(namespace.clone()).or_default();
        news
    }

    /// Events come in from now on, or no longer: then nothing is current.
    pub fn follow(&self, following: bool) {
        let mut known = self.lock();
        known.following = following;
        if !following {
            for space in known.spaces.values_mut() {
                space.doubt();
                space.followed = false;
            }
        }
    }

    /// What LMDB has of the namespace may not be what containerd has.
    pub fn doubt(&self, namespace: &Namespace) {
        self.lock().spaces.entry(namespace.clone()).or_default().doubt();
    }

    /// A Transfer begins in the namespace.
    pub fn transfer_begins(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let space = known.spaces.entry(namespace.clone()).or_default();
        space.transfers += 1;
        space.doubt();
    }

    /// A Transfer ended in the namespace; a resync is due.
    pub fn transfer_ends(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let space = known.spaces.entry(namespace.clone()).or_default();
        space.transfers = space.transfers.saturating_sub(1);
        space.doubt();
    }

    /// Before a resync.
    pub fn mark(&self, namespace: &Namespace) -> Mark {
        Mark(self.lock().spaces.entry(namespace.clone()).or_default().doubts)
    }

    /// After a resync: the namespace is current unless it was put in doubt since. Says whether.
    pub fn settle(&self, namespace: &Namespace, mark: Mark) -> bool {
        let mut known = self.lock();
        let following = known.following;
        let space = known.spaces.entry(namespace.clone()).or_default();
        space.current = following && space.doubts == mark.0;
        space.followed |= space.current;
        space.current
    }

    /// Whether every change of the namespace since it was last current was told by an event. If not,
    /// the containerd that answers now may be one that has lost its database.
    pub fn is_followed(&self, namespace: &Namespace) -> bool {
        self.lock().spaces.get(namespace).is_some_and(|space| space.followed)
    }

    /// Nothing that is done under this lock can panic.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn doubt(&mut self) {
        self.current = false;
        self.doubts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_current_after_a_resync_in_which_nothing_happened() {
        let (spaces, ns) = (Spaces::default(), Namespace::parse("n").unwrap());
        let resync = || {
            let mark = spaces.mark(&ns);
            spaces.settle(&ns, mark)
        };
        assert!(!resync(), "events are not coming in");
        spaces.follow(true);
        assert!(!spaces.is_followed(&ns));
        assert!(resync() && spaces.is_current(&ns) && spaces.is_followed(&ns));
        let mark = spaces.mark(&ns);
        spaces.doubt(&ns);
        assert!(!spaces.settle(&ns, mark) && !spaces.is_current(&ns));
        assert!(spaces.is_followed(&ns), "a doubt is no gap");
        assert!(resync());
        spaces.transfer_begins(&ns);
        assert!(resync() && !spaces.is_current(&ns), "a transfer runs");
        spaces.transfer_ends(&ns);
        assert!(!spaces.is_current(&ns), "what it brought is not known");
        assert!(resync() && spaces.is_current(&ns));
        spaces.follow(false);
        spaces.follow(true);
        assert!(!spaces.is_current(&ns) && !spaces.is_followed(&ns), "there was a gap");
    }
}
