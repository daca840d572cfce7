//! What has expired and is not kept, found on a snapshot: the first half of a batch, beside the writing
//! thread.
//!
//! Memory: the keys of a batch, and for the images of one namespace at a time what they refer to
//! ([`References`]). Names are hashed; records are read one at a time.
//!
//! A damaged record may have kept any image of its namespace: its labels, or what the lease names, are
//! lost with it. So no image of that namespace is removed until it is deleted or written again. Leases,
//! and other namespaces, are not concerned: references stay within a namespace.

use std::collections::{BTreeMap, HashSet};

use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::log_throttle::throttled_log;
use crate::model::image::encoded::Encoded;
use crate::model::{Error, Namespace, Result, UnixTime};
use crate::service::codec::decode;
use crate::service::events::Labels;
use crate::service::gc::references::{Links, MAX_LINKS, NameId, References};
use crate::service::gc::schedule::{Entry, Loaded};
use crate::service::gc::{Collector, EXPIRE, Unreadable, expires, never, references};
use crate::service::leases;
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::{Kind, Records, Snapshot};

/// Records that are due and looked at together.
pub(crate) const MAX_BATCH: usize = 8_192;

/// The label of a lease that keeps what it names, and nothing that this keeps.
const FLAT: &str = "containerd.io/gc.flat";

/// Where a batch comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// All that is due by the schedule.
    Schedule,
    /// The first that are due from that key on, by the store's list.
    Store(RecordKey),
}

/// An entry of which the record may be removed, or is another by now.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// When the entry says that the record expires.
    pub(crate) time: UnixTime,
    /// The record's key.
    pub(crate) key: RecordKey,
    /// What the entry leads to in the snapshot.
    pub(crate) subject: Subject,
}

/// What the entry of a candidate leads to in the snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// An image that has expired.
    Image(NameId),
    /// A lease that has expired.
    Lease,
    /// No record that expires then. A later change may make one, of which the run does not know what
    /// references it: the run leaves that record.
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

/// What a batch found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Leases first.
    pub(crate) candidates: Vec<Candidate>,
    /// Where the next batch begins, unless all that is due was in this one.
    pub(crate) next: Option<RecordKey>,
}

/// What has expired and is not kept, and entries whose records are others by now.
pub(crate) fn find(
    collector: &Collector,
    snapshot: &Snapshot<'_>,
    source: Source,
    number: u64,
    now: UnixTime,
) -> Result<Found> {
    let (is_all, due, next) = match source {
        Source::Schedule => (true, collector.state().schedule.due(now), None),
        Source::Store(from) => {
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
    if collector.found(number, references) {
        let images = images.into_values().flatten();
        candidates.extend(images.filter(|image| !collector.is_kept(number, image)));
    } else if !images.is_empty() {
        log::debug!("images that have expired are looked at again by the next run");
    }
    Ok(Found { candidates, next })
}

/// The first entries of the store's list from that key on that are due, and where the next begin.
fn due_in_store(
    snapshot: &Snapshot<'_>,
    from: &RecordKey,
    now: UnixTime,
) -> Result<(Vec<Entry>, Option<RecordKey>)> {
    let mut due = Vec::new();
    for noted in snapshot.expiring_keys(from)? {
        let (key, when) = noted?;
        let Some(time) = UnixTime::parse(&when).filter(|time| *time < now) else { continue };
        if due.len() == MAX_BATCH {
            return Ok((due, Some(key)));
        }
        due.push((time, key));
    }
    Ok((due, None))
}

/// Reads into the schedule what expires next.
pub(crate) fn load(collector: &Collector, snapshot: &Snapshot<'_>) -> Result<()> {
    let (mut loaded, mut unreadable) = (Loaded::default(), Unreadable::default());
    for noted in snapshot.expiring_keys(&RecordKey::first())? {
        let (key, when) = noted?;
        match UnixTime::parse(&when) {
            Some(time) => loaded.add((time, key)),
            None => unreadable.add(|| format!("{key}{}", never(&when))),
        }
    }
    let is_first = {
        let mut state = collector.state();
        let is_first = !state.schedule.was_loaded();
        state.schedule.end_load(loaded);
        is_first
    };
    // Once: a later load finds the same, or what was said when it was written.
    if is_first {
        unreadable.log();
    }
    Ok(())
}

/// What an entry leads to.
#[derive(Debug)]
pub(crate) enum EntryState {
    /// The record says itself that it expires then.
    Expired(Expiring),
    /// The record is gone, or expires at another time, or never.
    Stale,
    /// The record is damaged, so its time of expiry is unknown.
    Damaged,
}

/// What an entry leads to. The list of what expires has no checksum; records have one, and nothing is
/// removed on the word of damaged bytes.
pub(crate) fn state_of(records: &impl Records, (time, key): &Entry) -> EntryState {
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

/// Finds out what keeps which of the expired images of a namespace.
struct Graph<'s> {
    collector: &'s Collector,
    snapshot: &'s Snapshot<'s>,
    now: UnixTime,
    /// All that is due is in the batch.
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
            for noted in self.snapshot.expiring_images(namespace)? {
                let (key, when) = noted?;
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

    /// An image that has not expired is kept, and keeps others.
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
        // One that has expired and is not among those that were added has no references. If it has,
        // the list of what expires lacks it; then it stays, and so does what it keeps.
        if is_past && kept.peek().is_none() {
            return;
        }
        references.keep(id);
        kept.for_each(|other| references.keep(self.collector.id(namespace, other)));
    }
}
