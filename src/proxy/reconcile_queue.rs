//! The queue of reconciliations. Requests for the same namespace, or for the list of namespaces,
//! merge into one until the reconciler takes them.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::Namespace;

/// The work that events and calls request, and that the reconciler takes.
#[derive(Debug, Default)]
pub(crate) struct ReconcileQueue {
    due: Mutex<DueWork>,
    scheduled: Notify,
}

/// The scheduled reconciliations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DueWork {
    /// The list of namespaces, with their labels.
    pub(crate) list: bool,
    /// All images of each namespace on that list.
    pub(crate) all: bool,
    /// All images of these namespaces.
    pub(crate) namespaces: BTreeSet<Namespace>,
}

impl ReconcileQueue {
    /// Schedules the images of a namespace.
    pub(crate) fn schedule(&self, namespace: &Namespace) {
        self.due.lock().namespaces.insert(namespace.clone());
        self.scheduled.notify_one();
    }

    /// Schedules the list of namespaces.
    pub(crate) fn schedule_list(&self) {
        self.due.lock().list = true;
        self.scheduled.notify_one();
    }

    /// Schedules the list of namespaces and all their images.
    pub(crate) fn schedule_all(&self) {
        let mut due = self.due.lock();
        (due.list, due.all) = (true, true);
        self.scheduled.notify_one();
    }

    /// Waits for work, and takes all of it.
    pub(crate) async fn take(&self) -> DueWork {
        loop {
            let due = std::mem::take(&mut *self.due.lock());
            if due != DueWork::default() {
                return due;
            }
            self.scheduled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn equal_requests_merge_into_one() {
        let (queue, ns) = (ReconcileQueue::default(), Namespace::parse("n").unwrap());
        for _ in 0..1000 {
            queue.schedule(&ns);
            queue.schedule_list();
        }
        let due = queue.take().now_or_never().unwrap();
        assert_eq!(due, DueWork { list: true, all: false, namespaces: [ns].into() });
        assert!(queue.take().now_or_never().is_none());
        queue.schedule_all();
        assert!(queue.take().now_or_never().unwrap().all);
    }
}
