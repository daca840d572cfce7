//! Finds the expired records that no record keeps, in a snapshot. This is the first half of a batch. It does
//! not run on the writer thread.
//!
//! The search has in memory the keys of a batch, and the references of the expired images of one namespace at a
//! time ([`References`]). Names are hashed, and records are read one at a time.
//!
//! A damaged record may have kept any image of its namespace, because its references are unreadable. So the
//! collector removes no image of that namespace until a client deletes the damaged record or writes it again.
//! The collector still removes leases, and images of other namespaces: a reference stays within its
//! namespace.

use std::collections::{BTreeMap, HashSet};

use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::log_throttle::throttled_log;
use crate::model::image::encoded::Encoded;
use crate::model::{Error, Namespace, Result, UnixTime};
use crate::service::codec::decode;
use crate::service::events::Labels;
use crate::service::gc::references::{Links, MAX_LINKS, NameId, References};
use crate::service::gc::schedule::{ExpiryEntry, Loaded};
use crate::service::gc::{Collector, EXPIRE, Unreadable, expires, references, unreadable_time};
use crate::service::leases;
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::{Kind, Records, Snapshot};

/// The most due records of one batch.
pub(crate) const MAX_BATCH: usize = 8_192;

/// The label of a flat lease: it keeps the images that it names, and not the images that those keep.
const FLAT: &str = "containerd.io/gc.flat";

/// The list that a batch is taken from.
#[derive(Debug)]
pub(crate) enum CandidateSource {
    /// All due entries of the schedule.
    Schedule,
    /// The first due entries of the store's list, from this key on.
    Store(RecordKey),
}

/// A due entry whose record may be removed, or has changed since the entry was made.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The time when the record expires, by the entry.
    pub(crate) time: UnixTime,
    /// The record's key.
    pub(crate) key: RecordKey,
    /// The record of the entry in the snapshot.
    pub(crate) subject: Subject,
}

/// The record of a candidate in the snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// An image that has expired.
    Image(NameId),
    /// A lease that has expired.
    Lease,
    /// The snapshot has no record that expires at the time of the entry. If a later change makes one, the
    /// run leaves it, because the run does not know its references.
    Stale,
}

impl Candidate {
    /// The image, if it is one.
    pub(crate) fn image(&self) -> Option<NameId> {
        match self.subject {
            Subject::Image(id) => Some(id),
            Subject::Lease | Subject::Stale => None,
        }
    }
}

/// The result of a search.
#[derive(Debug)]
pub(crate) struct CandidateBatch {
    /// The candidates: leases first.
    pub(crate) candidates: Vec<Candidate>,
    /// The first key of the next batch. `None` if this batch has all due entries.
    pub(crate) next: Option<RecordKey>,
}

/// Finds the expired records that no record keeps, and the entries whose records have changed.
pub(crate) fn find(
    collector: &Collector,
    snapshot: &Snapshot<'_>,
    source: CandidateSource,
    number: u64,
    now: UnixTime,
) -> Result<CandidateBatch> {
    let (is_all, due, next) = match source {
        CandidateSource::Schedule => (true, collector.state().schedule.due(now), None),
        CandidateSource::Store(from) => {
            let (due, next) = due_in_store(snapshot, &from, now)?;
            (from == RecordKey::first() && next.is_none(), due, next)
        }
    };
    let (mut candidates, mut images) = (Vec::new(), BTreeMap::<Namespace, Vec<Candidate>>::new());
    for entry in due {
        let state = state_of(snapshot, &entry);
        let (time, key) = entry;
        match state {
            EntryState::Expired(record) if record.kind == Kind::Image => {
                let subject = Subject::Image(collector.id(&record.namespace, &record.name));
                let candidate = Candidate { time, key, subject };
                images.entry(record.namespace).or_default().push(candidate);
            }
            EntryState::Expired(_) => {
                candidates.push(Candidate { time, key, subject: Subject::Lease });
            }
            EntryState::Stale => candidates.push(Candidate { time, key, subject: Subject::Stale }),
            EntryState::Damaged => {}
        }
    }
    let mut references = References::default();
    let graph = Graph { collector, snapshot, now, is_all };
    images.retain(|namespace, images| match graph.references(namespace, images) {
        Ok(found) => {
            references.extend(found);
            true
        }
        Err(e) => {
            throttled_log!(
                Error,
                "images in namespace {namespace} that have expired are not collected, as what keeps \
                 them cannot be told: {e}; if a record is damaged, delete it or write it again"
            );
            false
        }
    });
    if collector.set_references(number, references) {
        let images = images.into_values().flatten();
        candidates.extend(images.filter(|image| !collector.is_kept(number, image)));
    } else if !images.is_empty() {
        log::debug!("images that have expired are looked at again by the next run");
    }
    Ok(CandidateBatch { candidates, next })
}

/// The first due entries of the store's list from the key `from` on, and the first key of the next ones.
fn due_in_store(
    snapshot: &Snapshot<'_>,
    from: &RecordKey,
    now: UnixTime,
) -> Result<(Vec<ExpiryEntry>, Option<RecordKey>)> {
    let mut due = Vec::new();
    for entry in snapshot.expiring_keys(from)? {
        let (key, when) = entry?;
        let Some(time) = UnixTime::parse(&when).filter(|time| *time < now) else { continue };
        if due.len() == MAX_BATCH {
            return Ok((due, Some(key)));
        }
        due.push((time, key));
    }
    Ok((due, None))
}

/// Loads the schedule from the store.
pub(crate) fn load(collector: &Collector, snapshot: &Snapshot<'_>) -> Result<()> {
    let (mut loaded, mut unreadable) = (Loaded::default(), Unreadable::default());
    for entry in snapshot.expiring_keys(&RecordKey::first())? {
        let (key, when) = entry?;
        match UnixTime::parse(&when) {
            Some(time) => loaded.add((time, key)),
            None => unreadable.add(|| format!("{key}{}", unreadable_time(&when))),
        }
    }
    let is_first = {
        let mut state = collector.state();
        let is_first = !state.schedule.was_loaded();
        state.schedule.end_load(loaded);
        is_first
    };
    // A later load finds the same records, or records that were logged when they were written.
    if is_first {
        unreadable.log();
    }
    Ok(())
}

/// The record of an entry.
#[derive(Debug)]
pub(crate) enum EntryState {
    /// The record expires at the time of the entry.
    Expired(Expiring),
    /// The record was removed, expires at another time, or never expires.
    Stale,
    /// The record is damaged, so its time of expiry is unknown.
    Damaged,
}

/// Compares an entry with its record. Only the record has a checksum, so the record decides whether it
/// expires.
pub(crate) fn state_of(records: &impl Records, (time, key): &ExpiryEntry) -> EntryState {
    let found = records.expiring(key).and_then(|found| {
        let Some(record) = found else { return Ok(None) };
        let message = records.record_at(key)?;
        let labels = message.map(|message| labels(record.kind, message)).transpose()?;
        let when = labels.as_ref().and_then(expires);
        let is_so = UnixTime::parse(&record.when) == Some(*time) && when == Some(&record.when);
        Ok(is_so.then_some(record))
    });
    match found {
        Ok(Some(record)) => EntryState::Expired(record),
        Ok(None) => EntryState::Stale,
        Err(e) => {
            throttled_log!(Error, "a record that has expired is not collected: {e}");
            EntryState::Damaged
        }
    }
}

fn labels(kind: Kind, message: &[u8]) -> Result<Labels> {
    Ok(match kind {
        Kind::Image => decode::<Image>(message)?.labels,
        Kind::Lease => decode::<StoredLease>(message)?.lease.unwrap_or_default().labels,
    })
}

/// Finds the references between the expired images of a namespace, and the images that are kept.
struct Graph<'s> {
    collector: &'s Collector,
    snapshot: &'s Snapshot<'s>,
    now: UnixTime,
    /// The batch has all due entries.
    is_all: bool,
}

impl Graph<'_> {
    fn references(&self, namespace: &Namespace, images: &[Candidate]) -> Result<References> {
        let mut references = References::default();
        let mut kept_elsewhere = Vec::new();
        if self.is_all {
            for image in images {
                self.add(namespace, &image.key, |_| true, &mut references, &mut kept_elsewhere)?;
            }
        } else {
            // An expired image of another batch may keep one of this batch.
            let batch: HashSet<_> = images.iter().filter_map(Candidate::image).collect();
            let is_candidate = |id| batch.contains(&id);
            for entry in self.snapshot.expiring_images(namespace)? {
                let (key, when) = entry?;
                if self.is_past(&when) {
                    self.add(namespace, &key, is_candidate, &mut references, &mut kept_elsewhere)?;
                }
            }
        }
        kept_elsewhere.into_iter().for_each(|id| references.keep(id));
        for entry in self.snapshot.scan(namespace, Kind::Lease)? {
            self.keep_leased(namespace, &mut references, decode(entry?.message()?)?);
        }
        if references.are_all_kept() {
            return Ok(references);
        }
        for entry in self.snapshot.scan(namespace, Kind::Image)? {
            self.keep_by_image(namespace, &mut references, entry?.message()?)?;
        }
        Ok(references)
    }

    fn is_past(&self, when: &str) -> bool {
        UnixTime::parse(when).is_some_and(|time| time < self.now)
    }

    /// Adds an expired image.
    fn add(
        &self,
        namespace: &Namespace,
        key: &RecordKey,
        is_candidate: impl Fn(NameId) -> bool,
        references: &mut References,
        kept_elsewhere: &mut Vec<NameId>,
    ) -> Result<()> {
        let Some(message) = self.snapshot.record_at(key)? else { return Ok(()) };
        let image: Image = decode(message)?;
        let id = self.collector.id(namespace, &image.name);
        let labels = image.labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        let links = Links::new(labels, |name| self.collector.id(namespace, name));
        let is_candidate = is_candidate(id);
        if !is_candidate && links.is_empty() {
            return Ok(());
        }
        if links.is_kept_elsewhere() {
            kept_elsewhere.push(id);
        }
        references.add_expired(id, is_candidate, links).map_err(|references::TooManyLinks| {
            Error::ResourceExhausted(format!(
                "its expired images have more than {MAX_LINKS} references to others"
            ))
        })
    }

    fn keep_leased(&self, namespace: &Namespace, references: &mut References, stored: StoredLease) {
        let labels = stored.lease.unwrap_or_default().labels;
        if expires(&labels).is_some_and(|when| self.is_past(when)) {
            return;
        }
        let is_flat = labels.contains_key(FLAT);
        for resource in stored.resources.iter().filter(|resource| resource.type_ == leases::IMAGES)
        {
            let id = self.collector.id(namespace, &resource.id);
            if is_flat {
                references.keep_alone(id);
            } else {
                references.keep(id);
            }
        }
    }

    /// Keeps an image that has not expired, and the images that it keeps.
    fn keep_by_image(
        &self,
        namespace: &Namespace,
        references: &mut References,
        message: &[u8],
    ) -> Result<()> {
        match Encoded::new(message) {
            Some(image) => {
                let name = std::str::from_utf8(image.name()).unwrap_or_default();
                let labels: Vec<_> = image.labels().collect();
                self.keep_with(namespace, references, name, &labels);
            }
            None => {
                let image: Image = decode(message)?;
                let labels = image.labels.iter().map(|(key, v)| (key.as_bytes(), v.as_bytes()));
                self.keep_with(namespace, references, &image.name, &labels.collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    fn keep_with(
        &self,
        namespace: &Namespace,
        references: &mut References,
        name: &str,
        labels: &[(&[u8], &[u8])],
    ) {
        let (id, labels) = (self.collector.id(namespace, name), labels.iter().copied());
        let mut kept = references::kept_by(labels.clone()).peekable();
        if references.is_expired(id) {
            return;
        }
        let expire = labels.rev().find(|(key, _)| *key == EXPIRE.as_bytes());
        let is_past = expire
            .and_then(|(_, when)| std::str::from_utf8(when).ok())
            .is_some_and(|when| self.is_past(when));
        // `references` has every expired image with references that the store's list has. So this image has
        // no references, or the list lacks it. Then the image stays, and so do the images that it keeps.
        if is_past && kept.peek().is_none() {
            return;
        }
        references.keep(id);
        kept.for_each(|other| references.keep(self.collector.id(namespace, other)));
    }
}
