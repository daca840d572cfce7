//! A run of the collector.
//!
//! 1. A job on the writer thread takes the due records from the schedule. From then on changes report the
//!    names that they reference.
//! 2. A thread of its own finds the unreferenced records, in a snapshot that includes all earlier commits.
//!    Its time depends on the number of records in the namespaces where records are due.
//! 3. Jobs on the writer thread, of at most [`SLICE_TIME`] and with other jobs between them, read each
//!    record again. A job removes the record if it has still expired and no change has referenced it since.
//!    A removal is final, even if the run fails later.
//!
//! Records that are kept, and those that a dropped run leaves, go back into the schedule.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::clock;
use crate::model::image::encoded::Encoded;
use crate::model::{Error, Namespace, Result, UnixTime};
use crate::service::codec::decode;
use crate::service::events::{Exchange, Labels, OwnEvent};
use crate::service::gc::references::References;
use crate::service::gc::schedule::Loaded;
use crate::service::gc::{
    Collector, EXPIRE, Run, State, Unreadable, expires, never, references, shown,
};
use crate::service::leases;
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::{Cause, Kind, Origin, Records, Snapshot, Store, Transaction};

/// The most records that one job removes. With names of usual length they fit into one journal entry.
pub const MAX_SLICE: usize = 64;

/// The time after which a job removes no further record.
pub const SLICE_TIME: Duration = Duration::from_millis(2);

/// The label of a lease that keeps only the images that it names.
const FLAT: &str = "containerd.io/gc.flat";

/// Removes what has expired and is not kept, and tells of the images that went. When this returns,
/// all is gone that could be collected when it was called. Callers at one time share a run.
pub async fn collect(collector: &Arc<Collector>, store: &Store, events: &Exchange) -> Result<()> {
    let before = collector.begun.load(Ordering::SeqCst);
    let mut finished = collector.finished.lock().await;
    if *finished > before {
        // A run that began after this call has ended meanwhile.
        return Ok(());
    }
    let number = collector.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    let unreadable = std::mem::take(&mut collector.state().unreadable);
    unreadable.log();
    let now = clock::now();
    // Every answered change is in the schedule.
    if collector.state().schedule.is_due(now) {
        Running { collector, store, number, now }.run(events).await?;
    }
    *finished = number;
    Ok(())
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
            state.end_run();
        }
    }
}

impl State {
    fn run_of(&mut self, number: u64) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.number == number)
    }

    fn begin_run(&mut self, number: u64, now: UnixTime) {
        // The previous run may have been dropped before its first job.
        self.end_run();
        if self.schedule.needs_load(now) {
            self.schedule.begin_load();
        }
        let (kept, references) = (Vec::new(), None);
        self.run = Some(Run { number, due: BTreeMap::new(), kept, references });
        self.take_due(now);
    }

    fn take_due(&mut self, now: UnixTime) {
        if let Some(run) = &mut self.run {
            let due = self.schedule.take_due(now);
            run.due.extend(due.into_iter().map(|(time, key)| (key, time)));
        }
    }

    fn end_run(&mut self) {
        for (key, time) in self.run.take().map(|run| run.due).into_iter().flatten() {
            self.schedule.insert((time, key));
        }
    }
}

impl Running<'_> {
    async fn run(self, events: &Exchange) -> Result<()> {
        let (collector, number, now) = (Arc::clone(self.collector), self.number, self.now);
        let begin = move |_: &mut Transaction<'_>| {
            collector.state().begin_run(number, now);
            Ok(())
        };
        self.store.writer().write(begin).await?;
        let (collector, store) = (Arc::clone(self.collector), self.store.clone());
        let find = move || store.read(|snapshot| find(&collector, snapshot, number, now));
        let mut expired = tokio::task::spawn_blocking(find)
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("looking for what expired: {e}"))))?;
        while !expired.is_empty() {
            let slice = expired.drain(..expired.len().min(MAX_SLICE)).collect();
            let removed = self.remove(slice, events).await?;
            for gone in &removed.gone {
                log_removal(gone);
            }
            for record in removed.left.into_iter().rev() {
                expired.push_front(record);
            }
        }
        Ok(())
    }

    /// Removes one slice, in one job.
    async fn remove(&self, slice: Vec<Expiring>, events: &Exchange) -> Result<Removed> {
        let (collector, number, events) = (Arc::clone(self.collector), self.number, events.clone());
        let work = move |change: &mut Transaction<'_>| remove(&collector, change, number, slice);
        let collector = Arc::clone(self.collector);
        let then = move |removed: &Removed| {
            let mut state = collector.state();
            for gone in &removed.gone {
                if let Some(run) = state.run_of(number) {
                    run.due.remove(&RecordKey::new(&gone.namespace, gone.kind, &gone.name));
                }
                if gone.kind == Kind::Image {
                    let name = gone.name.clone();
                    events.emit(&gone.namespace, OwnEvent::ImageDeleted { name });
                }
            }
        };
        self.store.writer().write_then(work, then).await
    }
}

/// The outcome of a slice.
#[derive(Debug, Default)]
struct Removed {
    gone: Vec<Expiring>,
    /// Records that the job had no time for.
    left: Vec<Expiring>,
}

fn remove(
    collector: &Collector,
    change: &mut Transaction<'_>,
    number: u64,
    slice: Vec<Expiring>,
) -> Result<Removed> {
    change.set_cause(Cause::own(Origin::ORIGIN_EXPIRED));
    let begun = Instant::now();
    let mut removed = Removed::default();
    for record in slice {
        if begun.elapsed() > SLICE_TIME && !removed.gone.is_empty() {
            removed.left.push(record);
        } else if !is_kept(collector, number, &record)
            && has_expired(change, &record)
            && change.delete(&record.namespace, record.kind, &record.name)?
        {
            removed.gone.push(record);
        }
    }
    Ok(removed)
}

fn is_kept(collector: &Collector, number: u64, record: &Expiring) -> bool {
    let mut state = collector.state();
    // A dropped run removes nothing more.
    let Some(run) = state.run_of(number) else { return true };
    record.kind == Kind::Image
        && run
            .references
            .as_ref()
            .and_then(|references| references.get(&record.namespace))
            .is_none_or(|references| references.is_kept(&record.name))
}

/// Whether the record itself expires at that time. Entries of the list of expiring records have no
/// checksum, so a damaged entry must not remove a record.
fn has_expired(records: &impl Records, noted: &Expiring) -> bool {
    let record = records.record(&noted.namespace, noted.kind, &noted.name);
    let labels =
        record.and_then(|message| message.map(|message| labels(noted.kind, message)).transpose());
    labels.is_ok_and(|l| l.is_some_and(|l| expires(&l) == Some(noted.when.as_str())))
}

fn labels(kind: Kind, message: &[u8]) -> Result<Labels> {
    Ok(match kind {
        Kind::Image => decode::<Image>(message)?.labels,
        Kind::Lease => decode::<StoredLease>(message)?.lease.unwrap_or_default().labels,
    })
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

/// The expired records that are not kept, leases first.
fn find(
    collector: &Collector,
    snapshot: &Snapshot<'_>,
    number: u64,
    now: UnixTime,
) -> Result<VecDeque<Expiring>> {
    let (needs_load, is_first) = {
        let schedule = &collector.state().schedule;
        (schedule.needs_load(now), !schedule.was_loaded())
    };
    if needs_load {
        let loaded = load(snapshot, now, is_first)?;
        let mut state = collector.state();
        state.schedule.end_load(loaded);
        state.take_due(now);
    }
    let keys: Vec<RecordKey> = {
        let mut state = collector.state();
        state.run_of(number).map(|run| run.due.keys().cloned().collect()).unwrap_or_default()
    };
    let mut leases = VecDeque::new();
    let mut images: BTreeMap<Namespace, Vec<Expiring>> = BTreeMap::new();
    for key in keys {
        match due_record(snapshot, &key, now) {
            Some(record) if record.kind == Kind::Lease => leases.push_back(record),
            Some(record) => images.entry(record.namespace.clone()).or_default().push(record),
            None => forget(collector, number, &key),
        }
    }
    let mut known = BTreeMap::new();
    for (namespace, images) in &images {
        match find_references(snapshot, namespace, images, now) {
            Ok(references) => drop(known.insert(namespace.clone(), references)),
            Err(e) => log::error!(
                "images in namespace {namespace} that have expired are not collected, as what keeps \
                 them cannot be told: {e}"
            ),
        }
    }
    let mut state = collector.state();
    let Some(run) = state.run_of(number) else { return Ok(VecDeque::new()) };
    run.references = Some(known);
    for (namespace, name) in std::mem::take(&mut run.kept) {
        run.keep(&namespace, &name);
    }
    drop(state);
    let unkept = images.into_values().flatten().filter(|image| !is_kept(collector, number, image));
    leases.extend(unkept);
    Ok(leases)
}

/// Reads the next expiring records from the store.
fn load(snapshot: &Snapshot<'_>, now: UnixTime, is_first: bool) -> Result<Loaded> {
    let (mut loaded, mut unreadable) = (Loaded::new(now), Unreadable::default());
    for noted in snapshot.expiring_keys()? {
        let (key, when) = noted?;
        match UnixTime::parse(&when) {
            Some(time) => loaded.add((time, key)),
            None => unreadable.add(|| format!("{key}{}", never(&when))),
        }
    }
    // Logged once: a later load finds the same records, or those that were logged when they were written.
    if is_first {
        unreadable.log();
    }
    Ok(loaded)
}

/// The record of an entry, if the record has expired. The entry may be older than the record.
fn due_record(snapshot: &Snapshot<'_>, key: &RecordKey, now: UnixTime) -> Option<Expiring> {
    match snapshot.expiring(key) {
        Ok(found) => found.filter(|record| {
            UnixTime::parse(&record.when).is_some_and(|time| time < now)
                && has_expired(snapshot, record)
        }),
        Err(e) => {
            log::error!("a record that has expired is not collected: {e}");
            None
        }
    }
}

/// Drops an entry whose record is gone or was replaced. A replacement has an entry of its own.
fn forget(collector: &Collector, number: u64, key: &RecordKey) {
    if let Some(run) = collector.state().run_of(number) {
        run.due.remove(key);
    }
}

/// The references to the expired images of a namespace.
fn find_references(
    snapshot: &Snapshot<'_>,
    namespace: &Namespace,
    images: &[Expiring],
    now: UnixTime,
) -> Result<References> {
    let mut references = References::default();
    let mut kept_elsewhere = Vec::new();
    for image in images {
        let Some(message) = snapshot.record(namespace, Kind::Image, &image.name)? else { continue };
        let labels = decode::<Image>(message)?.labels;
        let labels = labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        if references.add_expired(&image.name, labels) {
            kept_elsewhere.push(&image.name);
        }
    }
    kept_elsewhere.into_iter().for_each(|name| references.keep(name));
    for entry in snapshot.scan(namespace, Kind::Lease)? {
        keep_leased(&mut references, decode(entry?.message()?)?, now);
    }
    if references.are_all_kept() {
        return Ok(references);
    }
    for entry in snapshot.scan(namespace, Kind::Image)? {
        keep_by_image(&mut references, entry?.message()?)?;
    }
    Ok(references)
}

fn keep_leased(references: &mut References, stored: StoredLease, now: UnixTime) {
    let labels = stored.lease.unwrap_or_default().labels;
    if expires(&labels).and_then(UnixTime::parse).is_some_and(|time| time < now) {
        return;
    }
    let is_flat = labels.contains_key(FLAT);
    for resource in stored.resources.iter().filter(|resource| resource.type_ == leases::IMAGES) {
        if is_flat {
            references.keep_alone(&resource.id);
        } else {
            references.keep(&resource.id);
        }
    }
}

/// Keeps the images that an image which has not expired refers to.
fn keep_by_image(references: &mut References, message: &[u8]) -> Result<()> {
    match Encoded::new(message) {
        Some(image) => {
            let name = std::str::from_utf8(image.name()).unwrap_or_default();
            keep_with(references, name, image.labels());
        }
        None => {
            let image: Image = decode(message)?;
            let labels = image.labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            keep_with(references, &image.name, labels);
        }
    }
    Ok(())
}

fn keep_with<'l>(
    references: &mut References,
    name: &str,
    labels: impl Iterator<Item = (&'l [u8], &'l [u8])>,
) {
    if references.is_expired(name) {
        return;
    }
    references.keep(name);
    references::kept_by(labels).for_each(|other| references.keep(other));
}
