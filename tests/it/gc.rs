//! The images and leases that the collector of a daemon that stands alone removes and keeps, also while clients make
//! changes. `tests/differential/live/mod.rs` compares it with containerd's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;

use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, ListImagesRequest, ListImagesResponse,
    UpdateImageRequest,
};
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, ListResourcesRequest,
    ListResourcesResponse, ListResponse, Resource,
};
use lmdb_images::limits::memory::MemoryBudget;
use lmdb_images::model::{Error, Result};
use lmdb_images::service::local::LocalImages;
use lmdb_images::service::standalone::Standalone;
use lmdb_images::service::{CallContext, Images};
use lmdb_images::store::Store;
use proptest::prelude::*;
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};

use crate::support;
use crate::support::image;

const EXPIRE: &str = "containerd.io/gc.expire";
const PAST: (&str, &str) = (EXPIRE, "2001-01-01T00:00:00Z");
const FUTURE: (&str, &str) = (EXPIRE, "2999-01-01T00:00:00Z");
const REFERENCE: &str = "containerd.io/gc.ref.image";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.image";

type Labels<'l> = &'l [(&'l str, &'l str)];

/// The services on a store, without sockets: no background run but those a test asks for.
struct Services {
    alone: Standalone,
}

impl Services {
    fn open(root: &Path) -> Self {
        let local = LocalImages::new(Store::open(root).unwrap(), MemoryBudget::new(1 << 24));
        Self { alone: Standalone::new(local) }
    }

    fn local(&self) -> &LocalImages {
        self.alone.local()
    }

    fn call(lease: Option<&str>) -> CallContext {
        let lease = lease.map(|id| (http::HeaderName::from_static("containerd-lease"), id));
        let headers = lease.into_iter().map(|(name, id)| (name, id.parse().unwrap())).collect();
        let client = lmdb_images::limits::client::Client::Own;
        let (namespace, actor) = (Some("n".into()), lmdb_images::store::Actor::default());
        CallContext { namespace, client, actor, reply_limit: 1 << 24, headers }
    }

    async fn create(&self, name: &str, labels: Labels<'_>, lease: Option<&str>) -> Result<()> {
        let mut image = image(name);
        image.labels = owned(labels);
        let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
        self.local().create(&Self::call(lease), request).await.map(drop)
    }

    async fn update(&self, name: &str, labels: Labels<'_>, lease: Option<&str>) -> Result<()> {
        let mut image = image(name);
        image.labels = owned(labels);
        let update_mask =
            MessageField::some(FieldMask { paths: vec!["labels".into()], ..Default::default() });
        let image = MessageField::some(image);
        let request = UpdateImageRequest { image, update_mask, ..Default::default() };
        self.local().update(&Self::call(lease), request).await.map(drop)
    }

    async fn delete(&self, name: &str, sync: bool, lease: Option<&str>) -> Result<()> {
        let request = DeleteImageRequest { name: name.into(), sync, ..Default::default() };
        self.local().delete(&Self::call(lease), request).await.map(drop)
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.local().list(&Self::call(None), ListImagesRequest::new()).await.unwrap();
        let listed = ListImagesResponse::parse_from_bytes(&listed.message).unwrap();
        listed.images.into_iter().map(|image| image.name).collect()
    }

    async fn lease(&self, id: &str, labels: Labels<'_>, images: &[&str]) {
        let request = CreateRequest { id: id.into(), labels: owned(labels), ..Default::default() };
        self.alone.create_lease(&Self::call(None), request).await.unwrap();
        for image in images {
            self.hold(id, image).await;
        }
    }

    async fn hold(&self, id: &str, image: &str) {
        let resource = Resource { id: image.into(), type_: "images".into(), ..Default::default() };
        let resource = MessageField::some(resource);
        let add = AddResourceRequest { id: id.into(), resource, ..Default::default() };
        self.alone.add_resource(&Self::call(None), add).await.unwrap();
    }

    async fn give_up(&self, id: &str) {
        let request = DeleteRequest { id: id.into(), ..Default::default() };
        self.alone.delete_lease(&Self::call(None), request).await.unwrap();
    }

    async fn held(&self, id: &str) -> Vec<String> {
        let request = ListResourcesRequest { id: id.into(), ..Default::default() };
        let listed = self.alone.list_resources(&Self::call(None), request).await.unwrap();
        let listed = ListResourcesResponse::parse_from_bytes(&listed.message).unwrap();
        listed.resources.into_iter().map(|resource| resource.id).collect()
    }

    async fn leases(&self) -> Vec<String> {
        let listed = self.alone.list_leases(&Self::call(None), ListRequest::new()).await.unwrap();
        let listed = ListResponse::parse_from_bytes(&listed.message).unwrap();
        listed.leases.into_iter().map(|lease| lease.id).collect()
    }

    async fn collect(&self) -> Vec<String> {
        self.local().collect().await.unwrap();
        self.names().await
    }
}

fn owned(labels: Labels<'_>) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn services() -> (tempfile::TempDir, Services) {
    let dir = tempfile::tempdir().unwrap();
    let services = Services::open(dir.path());
    (dir, services)
}

#[tokio::test]
async fn an_expired_image_stays_as_long_as_another_keeps_it() {
    let (_dir, s) = services();
    s.create("index", &[("containerd.io/gc.ref.image.0", "manifest")], None).await.unwrap();
    s.create("manifest", &[PAST, ("containerd.io/gc.ref.image/x", "layer")], None).await.unwrap();
    s.create("layer", &[PAST], None).await.unwrap();
    s.create("with-index", &[PAST, (BACK_REFERENCE, "index")], None).await.unwrap();
    s.create("with-layer", &[PAST, ("containerd.io/gc.bref.image.m", "layer")], None)
        .await
        .unwrap();
    s.create("with-content", &[PAST, ("containerd.io/gc.bref.content", support::DIGEST)], None)
        .await
        .unwrap();
    s.create("with-snapshot", &[PAST, ("containerd.io/gc.bref.snapshot.x", "y")], None)
        .await
        .unwrap();
    s.create("loop-1", &[PAST, (REFERENCE, "loop-2")], None).await.unwrap();
    s.create("loop-2", &[PAST, (REFERENCE, "loop-1")], None).await.unwrap();
    s.create("misspelt", &[PAST], None).await.unwrap();
    s.create("misspeller", &[("containerd.io/gc.ref.images", "misspelt")], None).await.unwrap();
    let expected = [
        "index",
        "layer",
        "manifest",
        "misspeller",
        "with-content",
        "with-index",
        "with-layer",
        "with-snapshot",
    ];
    assert_eq!(s.collect().await, expected);
    // Without its index nothing of it is kept.
    s.delete("index", true, None).await.unwrap();
    assert_eq!(s.names().await, ["misspeller", "with-content", "with-snapshot"]);
}

#[tokio::test]
async fn a_flat_lease_keeps_what_it_names_and_nothing_else() {
    let (_dir, s) = services();
    for (name, other) in [("a", "a-more"), ("b", "b-more")] {
        s.create(name, &[PAST, (REFERENCE, other)], None).await.unwrap();
        s.create(other, &[PAST], None).await.unwrap();
    }
    s.lease("flat", &[("containerd.io/gc.flat", "true")], &["a"]).await;
    s.lease("deep", &[FUTURE], &["b"]).await;
    s.lease("over", &[PAST], &["a-more"]).await;
    assert_eq!(s.collect().await, ["a", "b", "b-more"]);
    assert_eq!(s.leases().await, ["deep", "flat"]);
}

#[tokio::test]
async fn an_expiring_image_is_added_to_the_lease_of_the_header() {
    let (_dir, s) = services();
    s.lease("l", &[], &[]).await;
    s.create("held", &[PAST], Some("l")).await.unwrap();
    s.create("plain", &[], Some("l")).await.unwrap();
    assert_eq!(s.held("l").await, ["held"], "only what expires needs a lease");
    s.update("plain", &[PAST], Some("l")).await.unwrap();
    assert_eq!(s.held("l").await, ["held", "plain"]);
    assert_eq!(s.collect().await, ["held", "plain"]);
    // A Delete under the lease takes the image out of it, and nothing if it fails.
    s.delete("plain", false, Some("l")).await.unwrap();
    assert_eq!(s.held("l").await, ["held"]);
    s.hold("l", "none").await;
    s.delete("none", false, Some("l")).await.unwrap_err();
    assert_eq!(s.held("l").await, ["held", "none"]);
    s.give_up("l").await;
    assert_eq!(s.collect().await, [""; 0]);
}

#[tokio::test]
async fn an_expiring_image_needs_an_existing_lease_in_the_header() {
    let (_dir, s) = services();
    let missing = Err(Error::NotFound("lease does not exist: not found".into()));
    assert_eq!(s.create("a", &[PAST], Some("none")).await, missing);
    assert_eq!(s.create("a", &[(EXPIRE, "")], Some("none")).await, missing);
    assert_eq!(s.names().await, [""; 0]);
    s.create("a", &[("k", "v")], Some("none")).await.unwrap();
    // The lease is looked at before the image, and after the mask.
    assert_eq!(s.create("a", &[PAST], Some("none")).await, missing);
    assert_eq!(s.update("a", &[FUTURE], Some("none")).await, missing);
    let unknown = s.update("b", &[FUTURE], Some("none")).await;
    assert_eq!(unknown, Err(Error::NotFound("image \"b\": not found".into())));
    s.delete("a", false, Some("none")).await.unwrap();
}

#[tokio::test]
async fn times_are_parsed_as_by_go() {
    let (_dir, s) = services();
    for (name, when) in [
        ("kept-1", "2020-01-01 00:00:00+00:00"),
        ("kept-2", "2020-01-01T00:00:00+0000"),
        ("kept-3", "2020-01-01t00:00:00z"),
        ("kept-4", "2020-01-01T00:00:60Z"),
        ("kept-5", "2020-01-01T00:00:00+00:00[UTC]"),
        ("gone-1", "2020-01-01T1:00:00Z"),
        ("gone-2", "2020-01-01T00:00:00.1234567890123Z"),
        ("gone-3", "0000-01-01T00:00:00+24:00"),
    ] {
        s.create(name, &[(EXPIRE, when)], None).await.unwrap();
        s.lease(name, &[(EXPIRE, when)], &[]).await;
    }
    let kept = ["kept-1", "kept-2", "kept-3", "kept-4", "kept-5"];
    assert_eq!(s.collect().await, kept);
    assert_eq!(s.leases().await, kept);
}

const MANY: usize = 1000;

/// Many expired images that a run removes in order of their names.
async fn many() -> (tempfile::TempDir, Services) {
    let (dir, s) = services();
    for number in 0..MANY {
        s.create(&format!("{number:04}"), &[PAST], None).await.unwrap();
    }
    (dir, s)
}

/// Drives a run until it has removed something.
async fn begin(s: &Services, run: &mut (impl Future<Output = Result<()>> + Unpin)) {
    tokio::select! {
        biased;
        ended = run => panic!("it removed all at once: {ended:?}"),
        () = async {
            while s.names().await.len() == MANY {
                tokio::task::yield_now().await;
            }
        } => {}
    }
}

#[tokio::test]
async fn a_run_goes_in_slices_and_each_slice_is_final() {
    let (dir, s) = many().await;
    {
        let mut run = pin!(s.local().collect());
        begin(&s, &mut run).await;
        // Here it is dropped.
    }
    let left = s.names().await.len();
    assert!(left > MANY / 2, "{left} are left: the first job was too long");
    drop(s);
    let again = Services::open(dir.path());
    assert!(again.names().await.len() <= left);
    assert_eq!(again.collect().await, [""; 0]);
}

#[tokio::test]
async fn the_next_run_completes_a_dropped_run() {
    let (_dir, s) = many().await;
    {
        let mut run = pin!(s.local().collect());
        begin(&s, &mut run).await;
    }
    assert_eq!(s.collect().await, [""; 0]);
}

#[tokio::test]
async fn an_image_that_a_change_keeps_during_a_run_stays() {
    let (_dir, s) = many().await;
    s.update("0901", &[PAST, (REFERENCE, "0902")], None).await.unwrap();
    s.update("0911", &[PAST, (BACK_REFERENCE, "late")], None).await.unwrap();
    s.lease("l", &[], &[]).await;
    let mut run = pin!(s.local().collect());
    begin(&s, &mut run).await;
    s.hold("l", "0901").await;
    s.create("late", &[(REFERENCE, "0921")], None).await.unwrap();
    s.update("0931", &[FUTURE], None).await.unwrap();
    s.delete("0941", false, None).await.unwrap();
    s.create("0941", &[], None).await.unwrap();
    run.await.unwrap();
    let expected = ["0901", "0902", "0911", "0921", "0931", "0941", "late"];
    assert_eq!(s.names().await, expected);
    assert_eq!(s.collect().await, expected);
}

/// A name, when it expires, and to which it refers, there and back.
type Drawn = (Option<bool>, Vec<usize>, Vec<usize>);

fn drawn() -> impl Strategy<Value = Drawn> {
    let some = || prop::collection::vec(0..NAMES, 0..3);
    (prop_oneof![3 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)], some(), some())
}

/// Some of the names have no image.
const NAMES: usize = 12;

/// What stays by the rules, found by going over all of them until nothing changes.
fn expected(images: &[Drawn], leases: &[(bool, Vec<usize>)]) -> BTreeSet<usize> {
    let is_root = |(_, image): &(usize, &Drawn)| image.0 != Some(true);
    let mut kept: BTreeSet<usize> =
        images.iter().enumerate().filter(is_root).map(|(name, _)| name).collect();
    let live = leases.iter().filter(|(has_expired, _)| !has_expired);
    kept.extend(live.flat_map(|(_, names)| names));
    loop {
        let before = kept.len();
        for (name, (_, there, back)) in images.iter().enumerate() {
            if kept.contains(&name) {
                kept.extend(there);
            }
            if back.iter().any(|other| kept.contains(other)) {
                kept.insert(name);
            }
        }
        if kept.len() == before {
            kept.retain(|name| *name < images.len());
            return kept;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exactly_the_kept_images_of_a_random_graph_stay(
        images in prop::collection::vec(drawn(), 1..NAMES - 2),
        leases in prop::collection::vec((any::<bool>(), prop::collection::vec(0..NAMES, 0..3)), 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let stayed = runtime.block_on(async {
            let (_dir, s) = services();
            for (name, (expires, there, back)) in images.iter().enumerate() {
                let mut labels: Vec<(String, String)> = expires
                    .map(|past| if past { PAST } else { FUTURE })
                    .map(|(key, value)| (key.into(), value.into()))
                    .into_iter()
                    .collect();
                for (label, names) in [(REFERENCE, there), (BACK_REFERENCE, back)] {
                    let refer = |(at, other): (usize, &usize)| (format!("{label}.{at}"), format!("i{other}"));
                    labels.extend(names.iter().enumerate().map(refer));
                }
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                s.create(&format!("i{name}"), &labels, None).await.unwrap();
            }
            for (number, (has_expired, names)) in leases.iter().enumerate() {
                let names: Vec<String> = names.iter().map(|name| format!("i{name}")).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let labels = [if *has_expired { PAST } else { FUTURE }];
                s.lease(&format!("l{number}"), &labels, &names).await;
            }
            s.collect().await
        });
        let stayed: BTreeSet<usize> = stayed.iter().map(|name| name[1..].parse().unwrap()).collect();
        prop_assert_eq!(stayed, expected(&images, &leases));
    }
}
