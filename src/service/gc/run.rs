//! A run of the collector.
//!
//! What is due comes from the schedule, or, where that does not know all of it, from the store's list,
//! in batches of [`MAX_BATCH`](find::MAX_BATCH). For each batch:
//!
//! 1. On the writer thread: from here on changes say what they keep.
//! 2. On a thread of its own, on a snapshot that has all that was committed before: which of the batch
//!    nothing keeps ([`find`](mod@super::find)). It takes time by what there is in the namespaces where something
//!    is due.
//! 3. On the writer thread again, in jobs of [`SLICE_TIME`] at most, others' jobs between them:
//!    each record is looked at again, and removed if it still says that it has expired and no change
//!    has kept it since. What one job has removed stays so, whatever becomes of the run.
//!
//! What is kept, and what a run that is dropped leaves, stays in the schedule.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock;
use crate::model::{Error, Result, UnixTime};
use crate::service::events::{Exchange, OwnEvent};
use crate::service::gc::find::{
    self, Candidate, EntryState, Found, Source, Subject, find, state_of,
};
use crate::service::gc::references::References;
use crate::service::gc::schedule::Entry;
use crate::service::gc::{Collector, EXPIRE, Run, State, shown};
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::{Cause, Kind, Origin, Snapshot, Store, Transaction};

/// Bytes of names after which a job removes no further record.
const MAX_SLICE_NAME_BYTES: usize = 1 << 20;

/// Records that one job removes at most: with names of usual length they fit into one entry of the
/// journal.
pub(crate) const MAX_SLICE: usize = 64;

/// A job that has taken so long removes no further record.
pub(crate) const SLICE_TIME: Duration = Duration::from_millis(2);

/// Removes what has expired and is not kept, and tells of the images that went. When this returns,
/// all is gone that could be collected when it was called. Callers at one time share a run.
pub(crate) async fn collect(
    collector: &Arc<Collector>,
    store: &Store,
    events: &Exchange,
) -> Result<()> {
    let before = collector.begun.load(Ordering::SeqCst);
    let mut finished = collector.finished.lock().await;
    if *finished > before {
        // A run that began after the call has ended while it waited.
        return Ok(());
    }
    let number = collector.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    let unreadable = std::mem::take(&mut collector.state().unreadable);
    unreadable.log();
    let now = clock::now();
    // What was answered has told the schedule before.
    if collector.state().is_due(now) {
        Running { collector, store, number, now }.run(events).await?;
    }
    *finished = number;
    Ok(())
}

impl Collector {
    /// What keeps what is known. Whether the batch may remove images.
    pub(super) fn found(&self, number: u64, mut references: References) -> bool {
        let mut state = self.state();
        let Some(run) = state.run_of(number) else { return false };
        if run.kept.has_overflowed {
            return false;
        }
        std::mem::take(&mut run.kept).ids.into_iter().for_each(|id| references.keep(id));
        run.references = Some(references);
        true
    }

    /// Whether the run of that number leaves the record.
    pub(super) fn is_kept(&self, number: u64, candidate: &Candidate) -> bool {
        let mut state = self.state();
        // A run that was dropped removes nothing more.
        let Some(run) = state.run_of(number) else { return true };
        // Nothing keeps a lease.
        candidate.image().is_some_and(|id| run.references.as_ref().is_none_or(|r| r.is_kept(id)))
    }
}

struct Running<'c> {
    collector: &'c Arc<Collector>,
    store: &'c Store,
    number: u64,
    now: UnixTime,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.collector.state();
        if state.run_of(self.number).is_some() {
            state.run = None;
        }
    }
}

impl State {
    /// Removes an entry in a job.
    fn remove(&mut self, entry: &Entry) {
        self.is_removing = true;
        self.schedule.remove(entry);
    }

    fn run_of(&mut self, number: u64) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.number == number)
    }

    fn is_due(&self, now: UnixTime) -> bool {
        self.is_removing || self.schedule.is_due(now)
    }

    pub(super) fn begin_batch(&mut self, number: u64) {
        self.run = Some(Run::new(number));
        if std::mem::take(&mut self.is_removing) {
            // A job of a slice ended without a commit, so the records of its entries may be there.
            self.schedule.invalidate();
        }
    }
}

impl Running<'_> {
    async fn run(self, events: &Exchange) -> Result<()> {
        let needs_load = {
            let state = self.collector.state();
            state.is_removing || state.schedule.needs_load(self.now)
        };
        if !needs_load {
            return self.batch(Source::Schedule, events).await.map(drop);
        }
        let mut from = RecordKey::first();
        while let Some(next) = self.batch(Source::Store(from), events).await? {
            from = next;
        }
        self.on_writer(|state| state.schedule.begin_load()).await?;
        let collector = Arc::clone(self.collector);
        self.on_snapshot(move |snapshot| find::load(&collector, snapshot)).await
    }

    /// Removes what of a batch nothing keeps. Returns where the next batch begins.
    async fn batch(&self, source: Source, events: &Exchange) -> Result<Option<RecordKey>> {
        let (collector, number, now) = (Arc::clone(self.collector), self.number, self.now);
        self.on_writer(move |state| state.begin_batch(number)).await?;
        let find = move |snapshot: &Snapshot<'_>| find(&collector, snapshot, source, number, now);
        let Found { candidates, next } = self.on_snapshot(find).await?;
        let mut candidates = VecDeque::from(candidates);
        while !candidates.is_empty() {
            let slice = candidates.drain(..candidates.len().min(MAX_SLICE)).collect();
            let removed = self.remove(slice, events).await?;
            removed.gone.iter().for_each(log_removal);
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

    /// One job.
    async fn remove(&self, slice: Vec<Candidate>, events: &Exchange) -> Result<Removed> {
        let (collector, number, events) = (Arc::clone(self.collector), self.number, events.clone());
        let work = move |change: &mut Transaction<'_>| remove(&collector, change, number, slice);
        let collector = Arc::clone(self.collector);
        let then = move |removed: &Removed| {
            collector.state().is_removing = false;
            for gone in removed.gone.iter().filter(|gone| gone.kind == Kind::Image) {
                let name = gone.name.clone();
                events.emit(&gone.namespace, OwnEvent::ImageDeleted { name });
            }
        };
        self.store.writer().write_then(work, then).await
    }
}

/// What became of a slice.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub(super) gone: Vec<Expiring>,
    /// What there was no time for.
    pub(super) left: Vec<Candidate>,
}

pub(super) fn remove(
    collector: &Collector,
    change: &mut Transaction<'_>,
    number: u64,
    slice: Vec<Candidate>,
) -> Result<Removed> {
    change.set_cause(Cause::own(Origin::ORIGIN_EXPIRED));
    let begun = Instant::now();
    let (mut removed, mut bytes) = (Removed::default(), 0);
    for candidate in slice {
        if begun.elapsed() > SLICE_TIME && bytes > 0 || bytes > MAX_SLICE_NAME_BYTES {
            removed.left.push(candidate);
            continue;
        }
        if collector.is_kept(number, &candidate) {
            continue;
        }
        let entry = (candidate.time, candidate.key);
        match state_of(change, &entry) {
            // The record is newer than the snapshot: the next run knows what references it.
            EntryState::Expired(_) if matches!(candidate.subject, Subject::Stale) => {}
            EntryState::Expired(record) => {
                collector.state().remove(&entry);
                change.delete(&record.namespace, record.kind, &record.name)?;
                bytes += record.name.len();
                removed.gone.push(record);
            }
            EntryState::Stale => collector.state().remove(&entry),
            EntryState::Damaged => {}
        }
    }
    Ok(removed)
}

fn log_removal(gone: &Expiring) {
    let (name, when) = (shown(&gone.name), shown(&gone.when));
    match gone.kind {
        Kind::Image => log::info!(
            "image {name} in namespace {} is collected: its label {EXPIRE} is {when}, which is past, \
             and no lease or image keeps it",
            gone.namespace
        ),
        Kind::Lease => log::debug!(
            "lease {name} in namespace {} is collected: its label {EXPIRE} is {when}",
            gone.namespace
        ),
    }
}
