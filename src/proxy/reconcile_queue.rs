//! What is to be read again of containerd: each namespace once, and the list of namespaces once, however
//! often that is asked before it is done.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::Namespace;

/// What is asked for by events and calls, and taken by the task that reads.
#[derive(Debug, Default)]
pub struct ReconcileQueue {
    due: Mutex<DueWork>,
    asked: Notify,
}

/// What is to be read again.
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
    /// The images of a namespace are to be read again.
    pub fn namespace(&self, namespace: &Namespace) {
        self.lock().namespaces.insert(namespace.clone());
        self.asked.notify_one();
    }

    /// The list of namespaces is to be read again.
    pub fn list(&self) {
        self.lock().list = true;
        self.asked.notify_one();
    }

    /// All is to be read again.
    pub fn all(&self) {
        let mut due = self.lock();
        (due.list, due.all) = (true, true);
        self.asked.notify_one();
    }

    /// Waits until something is wanted, and takes all of it.
    pub async fn take(&self) -> DueWork {
        loop {
            let due = std::mem::take(&mut *self.lock());
            if due != DueWork::default() {
                return due;
            }
            self.asked.notified().await;
        }
    }

    /// Nothing that is done under this lock can panic.
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
