//! The queue of reconciliations. Requests for the same namespace, or for the list of namespaces,
//! merge into one until the reconciler takes them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::Namespace;

/// The work that events and calls request, and that the reconciler takes.
#[derive(Debug, Default)]
pub struct ReconcileQueue {
    due: Mutex<DueWork>,
    asked: Notify,
}

/// The scheduled reconciliations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DueWork {
    /// The list of namespaces, with their labels.
    pub list: bool,
    /// All images of each namespace on that list.
    pub all: bool,
    /// All images of these namespaces.
    pub namespaces: BTreeSet<Namespace>,
}

impl ReconcileQueue {
    /// Schedules the images of a namespace.
    pub fn namespace(&self, namespace: &Namespace) {
        self.lock().namespaces.insert(namespace.clone());
        self.asked.notify_one();
    }

    /// Schedules the list of namespaces.
    pub fn list(&self) {
        self.lock().list = true;
        self.asked.notify_one();
    }

    /// Schedules the list of namespaces and all their images.
    pub fn all(&self) {
        let mut due = self.lock();
        (due.list, due.all) = (true, true);
        self.asked.notify_one();
    }

    /// Waits for work, and takes all of it.
    pub async fn take(&self) -> DueWork {
        loop {
            let due = std::mem::take(&mut *self.lock());
            if due != DueWork::default() {
                return due;
            }
            self.asked.notified().await;
        }
    }

    /// Locks the queue. Code that holds the lock cannot panic, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, DueWork> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn what_is_wanted_often_is_taken_once() {
        let (wanted, ns) = (ReconcileQueue::default(), Namespace::parse("n").unwrap());
        for _ in 0..1000 {
            wanted.namespace(&ns);
            wanted.list();
        }
        let due = wanted.take().now_or_never().unwrap();
        assert_eq!(due, DueWork { list: true, all: false, namespaces: [ns].into() });
        assert!(wanted.take().now_or_never().is_none());
        wanted.all();
        assert!(wanted.take().now_or_never().unwrap().all);
    }
}
