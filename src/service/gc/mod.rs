//! Garbage collection, as in containerd from 2.0 on: removes leases and images whose label
//! `containerd.io/gc.expire` lies in the past, except images that are still referenced ([`references`]).
//!
//! It runs when containerd's collector runs by default: shortly after the start, after every hundred
//! changes, and when a Delete waits for it (`sync`). Until the next run an expired image is served.
//!
//! A run ([`run`]) goes in batches of two steps: it finds unreferenced records in a snapshot ([`find`]),
//! beside the writer thread, and removes them in short jobs. Clients go on changing records meanwhile.
//! **Invariant:** a batch does not remove an image that a change references after the batch began. Each
//! change therefore reports the names that it references to the collector, in its own job on the writer
//! thread ([`Collector::image_written`], [`Collector::image_leased`]). References that a change drops count
//! from the next run on.

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

/// The label, on images and leases.
pub const EXPIRE: &str = "containerd.io/gc.expire";

/// The collector runs after this number of changes.
const CHANGES: u64 = 100;

/// Names that changes may keep while a batch is looked for. When there are more, the batch removes
/// no image.
const MAX_KEPT: usize = 1 << 18;

/// Records at once that the log names because their time cannot be read; others are counted.
const MAX_LOGGED_RECORDS: usize = 16;

/// Bytes of a client's word that a line of the log shows.
const MAX_LOGGED_BYTES: usize = 128;

/// When a record with these labels expires: the label as it is.
pub fn expires(labels: &Labels) -> Option<&str> {
    labels.get(EXPIRE).map(String::as_str)
}

/// Knows what expires next, and of the run that is under way.
#[derive(Debug, Default)]
pub struct Collector {
    state: Mutex<State>,
    /// The number of the last run that ended well. Held by the run that is under way.
    finished: tokio::sync::Mutex<u64>,
    /// The number of the last run that began.
    begun: AtomicU64,
    changes: AtomicU64,
    due: Notify,
    /// Of names. Its keys are random, so that no client can choose names with one hash.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    unreadable: Unreadable,
    run: Option<Run>,
    /// Entries were removed from the schedule by a job that is not committed.
    is_removing: bool,
}

/// Records whose time cannot be read, to be said in the log by the next run: not on the writing
/// thread, which must not wait for a log.
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

/// What is said of a record whose time cannot be read.
fn never(when: &str) -> String {
    format!(" never expires: its label {EXPIRE} is {}, which is no time of RFC 3339", shown(when))
}

/// A run that is under way, and its batch.
#[derive(Debug)]
struct Run {
    number: u64,
    /// What changes have kept since the batch began.
    kept: Kept,
    /// What keeps what, once that is known; what changes keep goes there then.
    references: Option<References>,
}

impl Run {
    fn new(number: u64) -> Self {
        Self { number, kept: Kept::default(), references: None }
    }

    fn keep(&mut self, id: NameId) {
        match &mut self.references {
            None => self.kept.add(id),
            Some(references) => references.keep(id),
        }
    }
}

/// Names that changes have kept while a batch was looked for.
#[derive(Debug, Default)]
struct Kept {
    ids: HashSet<NameId>,
    has_overflowed: bool,
}

impl Kept {
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
        // Each change of the state is whole before anything that could panic.
        self.state.lock()
    }

    /// Takes note of a change, in its job.
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

    /// An image was written: in the job that writes it.
    pub(crate) fn image_written(&self, namespace: &Namespace, name: &str, labels: &Labels) {
        self.expires(namespace, Kind::Image, name, labels);
        if let Some(run) = &mut self.state().run {
            // It may be another image than the run has seen.
            run.keep(self.id(namespace, name));
            let labels = labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            for other in references::kept_by(labels) {
                run.keep(self.id(namespace, other));
            }
        }
    }

    /// A lease was written: in the job that writes it.
    pub(crate) fn lease_written(&self, namespace: &Namespace, id: &str, labels: &Labels) {
        self.expires(namespace, Kind::Lease, id, labels);
    }

    /// A lease names an image: in the job that has it do so.
    pub(crate) fn image_leased(&self, namespace: &Namespace, name: &str) {
        if let Some(run) = &mut self.state().run {
            run.keep(self.id(namespace, name));
        }
    }

    /// Stands for an image's name while the daemon runs.
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
                format!("{} {} in namespace {namespace}", kind.noun(), shown(name)) + &never(when)
            }),
        }
    }

    /// Counts a change.
    pub(crate) fn record_change(&self) {
        if (self.changes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CHANGES) {
            self.due.notify_one();
        }
    }

    /// Waits until it is time.
    pub async fn due(&self) {
        self.due.notified().await;
    }
}

/// A client's word for the log, quoted and cut.
fn shown(text: &str) -> String {
    match text.as_bytes().get(..MAX_LOGGED_BYTES) {
        Some(head) if head.len() < text.len() => format!("{}…", quote(lossy(head).as_bytes())),
        _ => quote(text),
    }
}
