//! Runs beside changes, dropped runs, and runs over more records than a batch has.

use std::sync::Arc;

use super::find::{CandidateSource, MAX_BATCH, find, load};
use super::run::{collect, remove};
use super::{Collector, EXPIRE, MAX_KEPT, expires, schedule};
use crate::api::images::Image;
use crate::api::leases::{Lease, Resource, StoredLease};
use crate::clock;
use crate::model::Namespace;
use crate::service::codec::encode;
use crate::service::events::Exchange;
use crate::store::read::scan::RecordKey;
use crate::store::{Kind, Records, Store, Transaction};

const PAST: &str = "2001-01-01T00:00:00Z";
const KEEPS: &str = "containerd.io/gc.ref.image";
const KEPT_WITH: &str = "containerd.io/gc.bref.image";
const NUMBER: u64 = 1;

type Labels<'l> = &'l [(&'l str, &'l str)];

fn opened() -> (tempfile::TempDir, Store, Arc<Collector>, Namespace) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store, Arc::default(), Namespace::parse("n").unwrap())
}

/// Writes images in one job, without reporting them to the collector.
fn put_all(store: &Store, ns: &Namespace, images: impl Iterator<Item = Image> + Send + 'static) {
    let ns = ns.clone();
    let put = move |change: &mut Transaction<'_>| {
        for image in images {
            let expires = expires(&image.labels);
            change.put(&ns, Kind::Image, &image.name, &encode(&image)?, expires)?;
        }
        Ok(())
    };
    store.writer().write_blocking(put).unwrap();
}

fn image(name: &str, labels: Labels<'_>) -> Image {
    let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    Image { name: name.into(), labels: labels.collect(), ..Image::default() }
}

fn put(store: &Store, ns: &Namespace, name: &str, labels: Labels<'_>) {
    put_all(store, ns, [image(name, labels)].into_iter());
}

fn source() -> CandidateSource {
    CandidateSource::Store(RecordKey::first())
}

/// The names that a batch would remove, of images in the namespace `n`.
fn found(store: &Store, collector: &Collector, source: CandidateSource) -> Vec<String> {
    let found = store.read(|s| find(collector, s, source, NUMBER, clock::now())).unwrap();
    let found = found.candidates.iter().map(|candidate| candidate.key.to_string());
    found.map(|key| key.trim_matches('"').trim_start_matches("v1/n/images/").to_owned()).collect()
}

fn names(store: &Store, ns: &Namespace) -> Vec<String> {
    let names = store.read(|s| {
        let scan = s.scan(ns, Kind::Image)?;
        Ok(scan.map(|entry| entry.unwrap().display_name()).collect())
    });
    names.unwrap()
}

#[test]
fn an_image_that_a_change_keeps_before_the_snapshot_stays() {
    let (_dir, store, collector, ns) = opened();
    put(&store, &ns, "a", &[(EXPIRE, PAST), (KEEPS, "b")]);
    for name in ["b", "c", "d"] {
        put(&store, &ns, name, &[(EXPIRE, PAST)]);
    }
    collector.state().begin_batch(NUMBER);
    // The snapshot may lack these changes.
    collector.image_leased(&ns, "a");
    let labels = [("containerd.io/gc.ref.image.x".to_owned(), "c".to_owned())].into();
    collector.image_written(&ns, "new", &labels);
    assert_eq!(found(&store, &collector, source()), ["d"]);
}

#[test]
fn an_image_that_expires_after_the_snapshot_waits_for_the_next_run() {
    let (_dir, store, collector, ns) = opened();
    put(&store, &ns, "leased", &[]);
    put(&store, &ns, "free", &[]);
    collector.state().schedule.begin_load();
    store.read(|snapshot| load(&collector, snapshot)).unwrap();
    let lease = StoredLease {
        lease: Some(Lease { id: "l".into(), ..Lease::default() }).into(),
        resources: vec![Resource {
            id: "leased".into(),
            type_: "images".into(),
            ..Resource::default()
        }],
        ..StoredLease::default()
    };
    let namespace = ns.clone();
    let put_lease = move |change: &mut Transaction<'_>| {
        change.put(&namespace, Kind::Lease, "l", &encode(&lease)?, None)
    };
    store.writer().write_blocking(put_lease).unwrap();
    collector.state().begin_batch(NUMBER);
    let candidates = store.read(|snapshot| {
        // The schedule gets its entries before the store has the records.
        for name in ["leased", "free"] {
            collector.image_written(&ns, name, &[(EXPIRE.to_owned(), PAST.to_owned())].into());
        }
        find(&collector, snapshot, CandidateSource::Schedule, NUMBER, clock::now())
    });
    let candidates = candidates.unwrap().candidates;
    for name in ["leased", "free"] {
        put(&store, &ns, name, &[(EXPIRE, PAST)]);
    }
    let shared = Arc::clone(&collector);
    let work = move |change: &mut Transaction<'_>| remove(&shared, change, NUMBER, candidates);
    store.writer().write_blocking(work).unwrap();
    assert_eq!(names(&store, &ns), ["free", "leased"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
    assert_eq!(names(&store, &ns), ["leased"]);
}

#[test]
fn too_many_kept_names_stop_the_removal_of_images() {
    let (_dir, store, collector, ns) = opened();
    put(&store, &ns, "a", &[(EXPIRE, PAST)]);
    collector.state().begin_batch(NUMBER);
    for number in 0..=MAX_KEPT {
        collector.image_leased(&ns, &number.to_string());
    }
    assert!(collector.state().run.as_ref().unwrap().kept.ids.len() <= MAX_KEPT);
    assert_eq!(found(&store, &collector, source()), [""; 0]);
    collector.state().begin_batch(NUMBER);
    assert_eq!(found(&store, &collector, source()), ["a"]);
}

#[test]
fn an_image_that_a_run_leaves_is_due_again_unless_it_has_changed() {
    let (_dir, store, collector, ns) = opened();
    for name in ["a", "b"] {
        put(&store, &ns, name, &[(EXPIRE, PAST)]);
    }
    collector.state().schedule.begin_load();
    store.read(|snapshot| load(&collector, snapshot)).unwrap();
    let now = clock::now();
    for _ in 0..2 {
        collector.state().begin_batch(NUMBER);
        assert_eq!(found(&store, &collector, CandidateSource::Schedule), ["a", "b"]);
        collector.state().run = None;
        assert!(collector.state().schedule.is_due(now));
    }
    put(&store, &ns, "a", &[]);
    put(&store, &ns, "b", &[(EXPIRE, "2999-01-01T00:00:00Z")]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
    assert!(!collector.state().schedule.is_due(now));
    assert_eq!(names(&store, &ns), ["a", "b"]);
}

#[test]
fn a_damaged_record_keeps_the_expired_images_of_its_namespace_and_nothing_else() {
    for kind in [Kind::Image, Kind::Lease] {
        let (_dir, store, collector, ns) = opened();
        let other = Namespace::parse("o").unwrap();
        for ns in [&ns, &other] {
            put(&store, ns, "a", &[(EXPIRE, PAST)]);
        }
        let (damaged, lease) = (ns.clone(), StoredLease::new());
        let work = move |change: &mut Transaction<'_>| {
            change.put(&damaged, Kind::Lease, "past", &encode(&lease)?, Some(PAST))?;
            change.put(&damaged, kind, "damaged", b"\xff", None)
        };
        store.writer().write_blocking(work).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
        assert!(names(&store, &ns).contains(&"a".to_owned()));
        assert_eq!(names(&store, &other), [""; 0]);
        // After a client deletes the damaged record, the collector removes the image.
        let gone = ns.clone();
        let delete = move |change: &mut Transaction<'_>| change.delete(&gone, kind, "damaged");
        assert!(store.writer().write_blocking(delete).unwrap());
        runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
        assert_eq!(names(&store, &ns), [""; 0]);
    }
}

#[test]
fn a_run_that_was_dropped_removes_nothing_more() {
    let (_dir, store, collector, ns) = opened();
    put(&store, &ns, "a", &[(EXPIRE, PAST)]);
    collector.state().begin_batch(NUMBER);
    let found = store.read(|s| find(&collector, s, source(), NUMBER, clock::now())).unwrap();
    collector.state().run = None;
    let late =
        move |change: &mut Transaction<'_>| remove(&collector, change, NUMBER, found.candidates);
    assert!(store.writer().write_blocking(late).unwrap().deleted.is_empty());
}

#[test]
fn an_entry_whose_removal_is_not_committed_is_read_again() {
    let (_dir, store, collector, ns) = opened();
    put(&store, &ns, "a", &[(EXPIRE, PAST)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // After this load, no record keeps the image.
    collector.state().schedule.begin_load();
    store.read(|snapshot| load(&collector, snapshot)).unwrap();
    collector.state().begin_batch(NUMBER);
    let found = store
        .read(|s| find(&collector, s, CandidateSource::Schedule, NUMBER, clock::now()))
        .unwrap();
    let shared = Arc::clone(&collector);
    let failing = move |change: &mut Transaction<'_>| {
        assert_eq!(remove(&shared, change, NUMBER, found.candidates)?.deleted.len(), 1);
        Err::<(), _>(crate::model::Error::Internal("the disk is full".into()))
    };
    store.writer().write_blocking(failing).unwrap_err();
    assert_eq!(names(&store, &ns), ["a"]);
    runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
    assert_eq!(names(&store, &ns), [""; 0]);
}

/// Two kinds of expired images, more than a batch of each: images that keep each other in a chain whose
/// first image is leased, and images that no record keeps.
#[test]
fn references_lead_across_batches() {
    let (_dir, store, collector, ns) = opened();
    let count = MAX_BATCH + 100;
    let name = move |number: usize| format!("{:05}", number * 7919 % count);
    put_all(
        &store,
        &ns,
        (0..count).map(move |number| {
            let next = name(number + 1);
            let is_back = number % 3 == 0;
            // The last keeps nothing: the chain is open.
            let label = if is_back { "unused" } else { KEEPS };
            let before = name(number.saturating_sub(1));
            let kept_with = if number % 3 == 1 { KEPT_WITH } else { "unused-too" };
            image(&name(number), &[(EXPIRE, PAST), (label, &next), (kept_with, &before)])
        }),
    );
    put_all(&store, &ns, (0..count).map(|n| image(&format!("gone{n}"), &[(EXPIRE, PAST)])));
    let resource = Resource { id: name(0), type_: "images".into(), ..Default::default() };
    let mut lease = StoredLease { resources: vec![resource], ..Default::default() };
    lease.lease = Some(Lease { id: "l".into(), ..Default::default() }).into();
    let leased = ns.clone();
    let put = move |change: &mut Transaction<'_>| {
        change.put(&leased, Kind::Lease, "l", &encode(&lease)?, None)
    };
    store.writer().write_blocking(put).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for _ in 0..2 {
        runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
        assert_eq!(names(&store, &ns).len(), count, "the whole chain stays, and nothing else");
    }
    assert!(collector.state().schedule.due(clock::now()).len() <= 2 * schedule::MAX_ENTRIES);
    let gone = ns.clone();
    let delete = move |change: &mut Transaction<'_>| change.delete(&gone, Kind::Lease, "l");
    store.writer().write_blocking(delete).unwrap();
    runtime.block_on(collect(&collector, &store, &Exchange::default())).unwrap();
    assert_eq!(names(&store, &ns), [""; 0]);
}
