//! Random requests for Events, Introspection and Transfer, and random filters of subscribers.

use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::imagestore::{ImageReference, ImageStore};
use lmdb_images::api::introspection::PluginsRequest;
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

use super::generate::{image_labels, image_name, images, lease_filter, named, some};
use super::request::Request;
use super::watch::LET_MARKERS;
use crate::support::random::{Draw, Rng};

fn topic(r: &mut Rng) -> String {
    r.one(&[
        "/a/b",
        "/a/b",
        "/a",
        "/images/create",
        "",
        "a",
        "/",
        "//",
        "/a/",
        "/a//b",
        "/a/é",
        "/a b",
        "/-a",
        "/\"",
    ])
    .into()
}

fn payload(r: &mut Rng) -> MessageField<Any> {
    let known = ImageCreate {
        name: r.one(&["i", "é", ""]).into(),
        labels: [("a".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let (type_url, value) = match r.usize(..10) {
        0 => (String::new(), Vec::new()),
        1 => ("nope".into(), vec![1, 2, 3]),
        2 => ("containerd.services.images.v1.ImageCreate".into(), vec![0xff]),
        3 => ("x/containerd.services.images.v1.ImageDelete".into(), b"\x0a\x01i".to_vec()),
        4 => ("containerd.events.NamespaceUpdate".into(), known.write_to_bytes().unwrap()),
        5 => return MessageField::none(),
        _ => {
            let url = "containerd.services.images.v1.ImageCreate";
            (url.into(), known.write_to_bytes().unwrap())
        }
    };
    some(Any { type_url, value, ..Default::default() })
}

fn timestamp(r: &mut Rng) -> MessageField<Timestamp> {
    let seconds = r.one(&[0, 1, -1, 1_700_000_000, 253_402_300_799, -62_135_596_800, i64::MAX]);
    let nanos = r.one(&[0, 0, 1, 999_999_999, 1_000_000_000, -1, i32::MAX, i32::MIN]);
    if r.chance(10) {
        return MessageField::none();
    }
    some(Timestamp { seconds, nanos, ..Default::default() })
}

pub fn events(r: &mut Rng) -> Request {
    match r.usize(..100) {
        0..25 => Request::Publish(PublishRequest {
            topic: topic(r),
            event: payload(r),
            ..Default::default()
        }),
        25..50 => {
            let envelope = Envelope {
                timestamp: timestamp(r),
                namespace: named(r),
                topic: topic(r),
                event: payload(r),
                ..Default::default()
            };
            Request::Forward(ForwardRequest { envelope: some(envelope), ..Default::default() })
        }
        50..58 => {
            let mut filters: Vec<String> = (0..r.usize(1..=2)).map(|_| lease_filter(r)).collect();
            filters.push(LET_MARKERS.into());
            Request::Subscribe(SubscribeRequest { filters, ..Default::default() })
        }
        58..63 => {
            let filters = match r.usize(..4) {
                0 => vec!["type==io.containerd.grpc.v1".into()],
                1 => vec!["id==images".into(), "id~=^v".into()],
                _ => vec![lease_filter(r)],
            };
            Request::Plugins(PluginsRequest { filters, ..Default::default() })
        }
        63..75 => transfer(r),
        _ => images(r),
    }
}

fn transfer(r: &mut Rng) -> Request {
    let store = |store: &ImageStore| {
        let url = "containerd.types.transfer.ImageStore".into();
        let value = store.write_to_bytes().unwrap();
        some(Any { type_url: url, value, ..Default::default() })
    };
    let name = |r: &mut Rng| if r.chance(10) { String::new() } else { image_name(r) };
    let references = (0..r.one(&[0, 0, 1, 2]))
        .map(|_| ImageReference {
            name: name(r),
            is_prefix: r.chance(40),
            allow_overwrite: r.chance(30),
            add_digest: r.chance(20),
            skip_named_digest: r.chance(30),
            ..Default::default()
        })
        .collect();
    let source = ImageStore { name: name(r), ..Default::default() };
    let references: Vec<ImageReference> = references;
    let first = name(r);
    let is_tied_to_itself = references.iter().any(|reference| reference.name == first);
    let destination = ImageStore {
        name: if is_tied_to_itself { String::new() } else { first },
        labels: image_labels(r),
        extra_references: references,
        ..Default::default()
    };
    Request::Transfer(TransferRequest {
        source: store(&source),
        destination: store(&destination),
        ..Default::default()
    })
}

/// The image that a Transfer ties names to, if it may not give that name itself.
pub fn tied_to(request: &Request) -> Option<String> {
    let Request::Transfer(request) = request else { return None };
    let to = ImageStore::parse_from_bytes(&request.destination.value).unwrap();
    let is_tied = to.extra_references.iter().any(|reference| reference.is_prefix);
    Some(to.name).filter(|name| is_tied && !name.is_empty())
}

/// The filters of a subscriber.
pub fn watch(r: &mut Rng) -> Vec<String> {
    let mut filters: Vec<String> = (0..r.usize(..3))
        .map(|_| {
            r.one(&[
                "namespace==S0000000",
                "namespace~=S0000000",
                "namespace",
                "topic~=^/images",
                "topic==\"/namespaces/update\"",
                "event.name==i",
                "event.name",
                "event.labels.a==1",
                "event.labels.a",
                "event.labels",
                "event",
                "timestamp",
                "topic~=^/a,event.name!=i",
                "",
            ])
            .into()
        })
        .collect();
    if !filters.is_empty() {
        filters.push(LET_MARKERS.into());
    }
    filters
}
