//! A run of the collector.
//!
//! The due entries come from the schedule. If the schedule does not have all of them, they come from the
//! store's list, in batches of [`MAX_BATCH`](find::MAX_BATCH). A batch has three steps:
//!
//! 1. A job on the writer thread begins the batch. From then on, changes report the names that they keep.
//! 2. A thread of the blocking pool reads a snapshot that has every earlier commit, and finds the records
//!    that no record keeps ([`find`](mod@super::find)). The time grows with the number of records in the
//!    namespaces that have due entries.
//! 3. Jobs on the writer thread, of [`SLICE_TIME`] at most, remove the records; jobs of clients run between
//!    them. A job reads each record again, and removes it if it is still expired and no change has kept it.
//!    The removals of a job stay, even if the run is then dropped.
//!
//! Entries of kept records, and entries that a dropped run has not processed, stay in the schedule.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Result, UnixTime};
use crate::service::events::{Exchange, OwnEvent};
use crate::service::gc::find::{
    self, Candidate, CandidateBatch, CandidateSource, EntryState, Subject, find, state_of,
};
use crate::service::gc::references::References;
use crate::service::gc::schedule::ExpiryEntry;
use crate::service::gc::{Collector, EXPIRE, RunState, State, shown};
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::{Cause, Kind, Origin, Snapshot, Store, Transaction};

/// The bytes of names after which a job removes no further record.
const MAX_SLICE_NAME_BYTES: usize = 1 << 20;

/// The most records that one job removes. With names of usual length they fit into one entry of the journal.
pub(crate) const MAX_SLICE: usize = 64;

/// The time after which a job removes no further record.
pub(crate) const SLICE_TIME: Duration = Duration::from_millis(2);

/// Removes the expired records that no record keeps, and emits an event for each removed image. When this
/// function returns, no record is left that could be collected when it was called. Concurrent callers share
/// a run.
pub(crate) async fn collect(
    collector: &Arc<Collector>,
    store: &Store,
    events: &Exchange,
) -> Result<()> {
    let before = collector.started.load(Ordering::SeqCst);
    let mut finished = collector.finished.lock().await;
    if *finished > before {
        // While this call waited, a run finished that had started after the call.
        return Ok(());
    }
    let number = collector.started.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    let unreadable = std::mem::take(&mut collector.state().unreadable);
    unreadable.log();
    let now = clock::now();
    // Every answered change is in the schedule, because its job added it before the answer.
    if collector.state().is_due(now) {
        ActiveRun { collector, store, number, now }.run(events).await?;
    }
    *finished = number;
    Ok(())
}

impl Collector {
    /// Sets the references of the batch. Returns whether the batch may remove images.
    pub(super) fn set_references(&self, number: u64, mut references: References) -> bool {
        let mut state = self.state();
        let Some(run) = state.run_of(number) else { return false };
        if run.kept.has_overflowed {
            return false;
        }
        std::mem::take(&mut run.kept).ids.into_iter().for_each(|id| references.keep(id));
        run.references = Some(references);
        true
    }

    /// Whether the run `number` keeps the record.
    pub(super) fn is_kept(&self, number: u64, candidate: &Candidate) -> bool {
        let mut state = self.state();
        // A dropped run removes no further record.
        let Some(run) = state.run_of(number) else { return true };
        // No record keeps a lease.
        candidate.image().is_some_and(|id| run.references.as_ref().is_none_or(|r| r.is_kept(id)))
    }
}

struct ActiveRun<'c> {
    collector: &'c Arc<Collector>,
    store: &'c Store,
    number: u64,
    now: UnixTime,
}

impl Drop for ActiveRun<'_> {
    fn drop(&mut self) {
        let mut state = self.collector.state();
        if state.run_of(self.number).is_some() {
            state.run = None;
        }
    }
}

impl State {
    /// Removes an entry from the schedule, in a job.
    fn remove(&mut self, entry: &ExpiryEntry) {
        self.is_removing = true;
        self.schedule.remove(entry);
    }

    fn run_of(&mut self, number: u64) -> Option<&mut RunState> {
        self.run.as_mut().filter(|run| run.number == number)
    }

    fn is_due(&self, now: UnixTime) -> bool {
        self.is_removing || self.schedule.is_due(now)
    }

    pub(super) fn begin_batch(&mut self, number: u64) {
        self.run = Some(RunState::new(number));
        if std::mem::take(&mut self.is_removing) {
            // A job ended without a commit, so records without an entry may be left.
            self.schedule.invalidate();
        }
    }
}

impl ActiveRun<'_> {
    async fn run(self, events: &Exchange) -> Result<()> {
        let needs_load = {
            let state = self.collector.state();
            state.is_removing || state.schedule.needs_load(self.now)
        };
        if !needs_load {
            return self.batch(CandidateSource::Schedule, events).await.map(drop);
        }
        let mut from = RecordKey::first();
        while let Some(next) = self.batch(CandidateSource::Store(from), events).await? {
            from = next;
        }
        self.on_writer(|state| state.schedule.begin_load()).await?;
        let collector = Arc::clone(self.collector);
        self.on_snapshot(move |snapshot| find::load(&collector, snapshot)).await
    }

    /// Removes the records of a batch that no record keeps. Returns the first key of the next batch.
    async fn batch(&self, source: CandidateSource, events: &Exchange) -> Result<Option<RecordKey>> {
        let (collector, number, now) = (Arc::clone(self.collector), self.number, self.now);
        self.on_writer(move |state| state.begin_batch(number)).await?;
        let find = move |snapshot: &Snapshot<'_>| find(&collector, snapshot, source, number, now);
        let CandidateBatch { candidates, next } = self.on_snapshot(find).await?;
        let mut candidates = VecDeque::from(candidates);
        while !candidates.is_empty() {
            let slice = candidates.drain(..candidates.len().min(MAX_SLICE)).collect();
            let removed = self.remove(slice, events).await?;
            removed.deleted.iter().for_each(log_removal);
            for candidate in removed.left.into_iter().rev() {
                candidates.push_front(candidate);
            }
        }
        Ok(next)
    }

    async fn on_writer(&self, change: impl FnOnce(&mut State) + Send + 'static) -> Result<()> {
        let collector = Arc::clone(self.collector);
        let work = move |_: &mut Transaction<'_>| {
            change(&mut collector.state());
            Ok(())
        };
        self.store.writer().write(work).await
    }

    async fn on_snapshot<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.read(read))
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("looking for what expired: {e}"))))
    }

    /// Removes the records of a slice in one job.
    async fn remove(&self, slice: Vec<Candidate>, events: &Exchange) -> Result<Removed> {
        let (collector, number, events) = (Arc::clone(self.collector), self.number, events.clone());
        let work = move |change: &mut Transaction<'_>| remove(&collector, change, number, slice);
        let collector = Arc::clone(self.collector);
        let then = move |removed: &Removed| {
            collector.state().is_removing = false;
            for record in removed.deleted.iter().filter(|record| record.kind == Kind::Image) {
                let name = record.name.clone();
                events.emit(&record.namespace, OwnEvent::ImageDeleted { name });
            }
        };
        self.store.writer().write_then(work, then).await
    }
}

/// The result of a job.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// The records that the job has deleted.
    pub(super) deleted: Vec<Expiring>,
    /// The candidates that the job had no time for.
    pub(super) left: Vec<Candidate>,
}

pub(super) fn remove(
    collector: &Collector,
    change: &mut Transaction<'_>,
    number: u64,
    slice: Vec<Candidate>,
) -> Result<Removed> {
    change.set_cause(Cause::own(Origin::ORIGIN_EXPIRED));
    let started = Instant::now();
    let (mut removed, mut bytes) = (Removed::default(), 0);
    for candidate in slice {
        if started.elapsed() > SLICE_TIME && bytes > 0 || bytes > MAX_SLICE_NAME_BYTES {
            removed.left.push(candidate);
            continue;
        }
        if collector.is_kept(number, &candidate) {
            continue;
        }
        let entry = (candidate.time, candidate.key);
        match state_of(change, &entry) {
            // The record is newer than the snapshot, so only the next run knows its references.
            EntryState::Expired(_) if matches!(candidate.subject, Subject::Stale) => {}
            EntryState::Expired(record) => {
                collector.state().remove(&entry);
                change.delete(&record.namespace, record.kind, &record.name)?;
                bytes += record.name.len();
                removed.deleted.push(record);
            }
            EntryState::Stale => collector.state().remove(&entry),
            EntryState::Damaged => {}
        }
    }
    Ok(removed)
}

fn log_removal(record: &Expiring) {
    let (name, when) = (shown(&record.name), shown(&record.when));
    match record.kind {
        Kind::Image => throttled_log!(
            Info,
            "image {name} in namespace {} is collected: its label {EXPIRE} is {when}, which is past, \
             and no lease or image keeps it",
            record.namespace
        ),
        Kind::Lease => log::debug!(
            "lease {name} in namespace {} is collected: its label {EXPIRE} is {when}",
            record.namespace
        ),
    }
}
