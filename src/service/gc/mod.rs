//! Garbage collection, as in containerd from 2.0 on: removes leases and images whose label
//! `containerd.io/gc.expire` lies in the past, except images that are still referenced ([`references`]).
//!
//! It runs when containerd's collector runs by default: shortly after the start, after every hundred
//! changes, and when a Delete waits for it (`sync`). Until the next run an expired image is served.
//!
//! A run ([`run`]) finds unreferenced records in a snapshot, beside the writer thread, and removes them in
//! short jobs. Clients go on changing records meanwhile. **Invariant:** a run does not remove an image
//! that a change references after the run began. Each change therefore reports the names that it
//! references to the collector, in its own job on the writer thread ([`Collector::image_written`],
//! [`Collector::image_leased`]). References that a change drops count from the next run on.

pub mod references;
pub mod run;
pub mod schedule;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::go::quote::quote;
use crate::model::go::text::lossy;
use crate::model::{Namespace, UnixTime};
use crate::service::events::{Labels, OwnEvent};
use crate::store::Kind;
use crate::store::read::scan::RecordKey;
use references::References;
use schedule::Schedule;

/// The label of images and leases that holds the time of expiry.
pub const EXPIRE: &str = "containerd.io/gc.expire";

/// The number of changes between two runs.
const RUN_INTERVAL_CHANGES: u64 = 100;

/// The most records with an unreadable time that the log names at once; it counts the others.
const MAX_LOGGED_RECORDS: usize = 16;

/// The most bytes of a client's text in a line of the log.
const MAX_LOGGED_BYTES: usize = 128;

/// The time of expiry in these labels, as text.
pub fn expires(labels: &Labels) -> Option<&str> {
    labels.get(EXPIRE).map(String::as_str)
}

/// The schedule of expiry, and the state of the current run.
#[derive(Debug, Default)]
pub struct Collector {
    state: Mutex<State>,
    /// The number of the last successful run. The current run holds the lock.
    finished: tokio::sync::Mutex<u64>,
    /// The number of the last run that was started.
    begun: AtomicU64,
    changes: AtomicU64,
    due: Notify,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    unreadable: Unreadable,
    run: Option<Run>,
}

/// Records with an unreadable time, for the next run to log: the writer thread must not wait for a log.
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

/// The sentence about a record whose time cannot be read.
fn never(when: &str) -> String {
    format!(" never expires: its label {EXPIRE} is {}, which is no time of RFC 3339", shown(when))
}

/// The state of the current run.
#[derive(Debug)]
struct Run {
    number: u64,
    /// The records that were due when the run began, without those removed or changed since.
    due: BTreeMap<RecordKey, UnixTime>,
    /// The names that changes referenced since the run began, until `references` is known.
    kept: Vec<(Namespace, String)>,
    /// The references by namespace, once the run has read them; later changes add to them.
    references: Option<BTreeMap<Namespace, References>>,
}

impl Run {
    fn keep(&mut self, namespace: &Namespace, name: &str) {
        match &mut self.references {
            None => self.kept.push((namespace.clone(), name.to_owned())),
            Some(references) => {
                if let Some(references) = references.get_mut(namespace) {
                    references.keep(name);
                }
            }
        }
    }
}

impl Collector {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change of the state can panic halfway, so the state of a poisoned lock is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Observes a change, in the job of the change.
    pub fn observe(&self, namespace: &Namespace, happened: &OwnEvent) {
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

    /// Observes a written image, in the job that writes it.
    pub fn image_written(&self, namespace: &Namespace, name: &str, labels: &Labels) {
        self.expires(namespace, Kind::Image, name, labels);
        if let Some(run) = &mut self.state().run {
            // The run may have seen another image under this name.
            run.keep(namespace, name);
            let labels = labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            for other in references::kept_by(labels) {
                run.keep(namespace, other);
            }
        }
    }

    /// Observes a written lease, in the job that writes it.
    pub fn lease_written(&self, namespace: &Namespace, id: &str, labels: &Labels) {
        self.expires(namespace, Kind::Lease, id, labels);
    }

    /// Observes that a lease names an image, in the job that adds the name.
    pub fn image_leased(&self, namespace: &Namespace, name: &str) {
        if let Some(run) = &mut self.state().run {
            run.keep(namespace, name);
        }
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
    pub fn record_change(&self) {
        if (self.changes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(RUN_INTERVAL_CHANGES) {
            self.due.notify_one();
        }
    }

    /// Waits until a run is due.
    pub async fn due(&self) {
        self.due.notified().await;
    }
}

/// A client's text for the log, quoted and truncated.
fn shown(text: &str) -> String {
    match text.as_bytes().get(..MAX_LOGGED_BYTES) {
        Some(head) if head.len() < text.len() => format!("{}…", quote(lossy(head).as_bytes())),
        _ => quote(text),
    }
}
