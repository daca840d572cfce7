//! Garbage collection, as in containerd from 2.0 on: removes leases and images whose label
//! `containerd.io/gc.expire` lies in the past, except images that are still referenced ([`references`]).
//!
//! The collector runs when containerd's runs by default: shortly after the start, after every hundred
//! changes, and when a Delete waits for it (`sync`). Until the next run, clients still see an expired image.
//!
//! A run ([`run`]) processes its records in batches, each in two steps. It finds the unreferenced records in
//! a snapshot ([`find`]), on another thread than the writer's, and then removes them in short jobs of the
//! writer thread. Clients change records meanwhile. **Invariant:** a batch does not remove an image that a
//! change references after the batch began. So each change reports the names that it references to the
//! collector, in its own job on the writer thread ([`Collector::image_written`],
//! [`Collector::image_leased`]). If a change drops a reference, the next run notices it.

pub(crate) mod find;
pub(crate) mod references;
pub(crate) mod run;
pub(crate) mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use go_compat::quote::quote;
use go_compat::text::lossy;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::model::{Namespace, UnixTime};
use crate::service::events::{Labels, OwnEvent};
use crate::store::Kind;
use crate::store::read::scan::RecordKey;
use references::{NameId, References};
use schedule::Schedule;

/// The label, of an image or a lease, with the time when it expires.
pub const EXPIRE: &str = "containerd.io/gc.expire";

/// The collector runs after this number of changes.
const CHANGES: u64 = 100;

/// The most names that changes may keep while a batch is searched. With more, the batch removes no image.
const MAX_KEPT: usize = 1 << 18;

/// The most records with an unreadable time that one run names in the log. It counts the others.
const MAX_LOGGED_RECORDS: usize = 16;

/// The most bytes of a client's text in a line of the log.
const MAX_LOGGED_BYTES: usize = 128;

/// The time when a record with these labels expires, as the client wrote it.
pub fn expires(labels: &Labels) -> Option<&str> {
    labels.get(EXPIRE).map(String::as_str)
}

/// The garbage collector: what expires next, and the current run.
#[derive(Debug, Default)]
pub struct Collector {
    state: Mutex<State>,
    /// The number of the last run that ended without an error. The current run has the lock.
    finished: tokio::sync::Mutex<u64>,
    /// The number of the last run that started.
    started: AtomicU64,
    changes: AtomicU64,
    due: Notify,
    /// Hashes names. The key is random, so a client cannot choose two names with the same hash.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    unreadable: Unreadable,
    run: Option<RunState>,
    /// A job has removed entries from the schedule, and is not committed yet.
    is_removing: bool,
}

/// Records with an unreadable time. The next run logs them, because the writer thread must not wait for the
/// log.
#[derive(Debug, Default)]
struct Unreadable {
    lines: Vec<String>,
    more: u64,
}

impl Unreadable {
    fn add(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MAX_LOGGED_RECORDS {
            self.lines.push(line());
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    fn log(self) {
        self.lines.iter().for_each(|line| log::info!("{line}"));
        if self.more > 0 {
            log::info!("{} more records never expire for the same reason", self.more);
        }
    }
}

/// The end of the log line about a record with an unreadable time.
fn unreadable_time(when: &str) -> String {
    format!(" never expires: its label {EXPIRE} is {}, which is no time of RFC 3339", shown(when))
}

/// The current run, and its batch.
#[derive(Debug)]
struct RunState {
    number: u64,
    /// The names that changes have kept since the batch began, until `references` is known.
    kept: KeptNames,
    /// The references between the images of the batch, once the search has found them. Changes then mark
    /// the names that they keep here.
    references: Option<References>,
}

impl RunState {
    fn new(number: u64) -> Self {
        Self { number, kept: KeptNames::default(), references: None }
    }

    fn keep(&mut self, id: NameId) {
        match &mut self.references {
            None => self.kept.add(id),
            Some(references) => references.keep(id),
        }
    }
}

/// The names that changes have kept while a batch is searched.
#[derive(Debug, Default)]
struct KeptNames {
    ids: HashSet<NameId>,
    has_overflowed: bool,
}

impl KeptNames {
    fn add(&mut self, id: NameId) {
        if self.ids.len() < MAX_KEPT {
            self.ids.insert(id);
        } else {
            self.has_overflowed = true;
        }
    }
}

impl Collector {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change of the state.
        self.state.lock()
    }

    /// Processes the event of a change, in the job of the change.
    pub(crate) fn observe(&self, namespace: &Namespace, happened: &OwnEvent) {
        match happened {
            OwnEvent::ImageCreated { name, labels } | OwnEvent::ImageUpdated { name, labels } => {
                self.image_written(namespace, name, labels);
            }
            OwnEvent::ImageDeleted { .. }
            | OwnEvent::NamespaceCreated { .. }
            | OwnEvent::NamespaceUpdated { .. }
            | OwnEvent::NamespaceDeleted { .. } => {}
        }
    }

    /// Records that an image was written, in the job that writes it.
    pub(crate) fn image_written(&self, namespace: &Namespace, name: &str, labels: &Labels) {
        self.expires(namespace, Kind::Image, name, labels);
        if let Some(run) = &mut self.state().run {
            // The run may have seen an earlier image of this name.
            run.keep(self.id(namespace, name));
            let labels = labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            for other in references::kept_by(labels) {
                run.keep(self.id(namespace, other));
            }
        }
    }

    /// Records that a lease was written, in the job that writes it.
    pub(crate) fn lease_written(&self, namespace: &Namespace, id: &str, labels: &Labels) {
        self.expires(namespace, Kind::Lease, id, labels);
    }

    /// Records that a lease references an image, in the job that adds the reference.
    pub(crate) fn image_leased(&self, namespace: &Namespace, name: &str) {
        if let Some(run) = &mut self.state().run {
            run.keep(self.id(namespace, name));
        }
    }

    /// The hash of an image's name. It is the same as long as the daemon runs.
    fn id(&self, namespace: &Namespace, name: &str) -> NameId {
        NameId(self.hasher.hash_one((namespace.as_str(), name)))
    }

    fn expires(&self, namespace: &Namespace, kind: Kind, name: &str, labels: &Labels) {
        let Some(when) = expires(labels) else { return };
        let time = UnixTime::parse(when);
        let mut state = self.state();
        match time {
            Some(time) => state.schedule.insert((time, RecordKey::new(namespace, kind, name))),
            None => state.unreadable.add(|| {
                format!("{} {} in namespace {namespace}", kind.noun(), shown(name))
                    + &unreadable_time(when)
            }),
        }
    }

    /// Counts a change. Every hundredth makes a run due.
    pub(crate) fn record_change(&self) {
        if (self.changes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CHANGES) {
            self.due.notify_one();
        }
    }

    /// Waits until a run is due.
    pub async fn due(&self) {
        self.due.notified().await;
    }
}

/// A client's text for the log, quoted and shortened.
fn shown(text: &str) -> String {
    match text.as_bytes().get(..MAX_LOGGED_BYTES) {
        Some(head) if head.len() < text.len() => format!("{}…", quote(lossy(head).as_bytes())),
        _ => quote(text),
    }
}
