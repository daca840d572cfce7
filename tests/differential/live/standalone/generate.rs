//! Random sequences, and their requests for Namespaces and Leases: few names, so that steps meet, and values at
//! the edges of rules.

use std::collections::BTreeMap;

use lmdb_images::api::images::{DeleteImageRequest, UpdateImageRequest};
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest,
    ListResourcesRequest, Resource,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, Namespace,
    UpdateNamespaceRequest,
};
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;

use super::generate_events::{events, tied_to, watch};
use super::request::{Request, Step, TOKEN};
use crate::live::engine::Sequence;
use crate::live::text;
use crate::support;
use crate::support::random::{Draw, Rng};

/// A sequence: mostly of one service, with some of the others.
pub fn sequence(seed: u64) -> Sequence<Step, Vec<Vec<String>>> {
    let mut r = Rng::with_seed(seed);
    let weights = r.one(&[[80, 10, 10], [80, 10, 10], [10, 80, 10], [10, 10, 80], [34, 33, 33]]);
    let length = r.usize(3..=24);
    // Something must be there for the others to meet.
    let mut steps = Vec::new();
    if r.chance(60) {
        let lease = CreateRequest { id: "a".into(), ..Default::default() };
        let image = support::create(support::image("i"));
        for request in [Request::CreateLease(lease), Request::CreateImage(image)] {
            steps.push(Step { space: Some(TOKEN.into()), request });
        }
    }
    for _ in 0..length {
        let service = r.usize(..100);
        let request = if service < weights[0] {
            namespaces(&mut r)
        } else if service < weights[0] + weights[1] {
            leases(&mut r)
        } else {
            events(&mut r)
        };
        let space = space(&mut r);
        // containerd takes a lease for it, which makes the namespace (docs/compatibility.md).
        if let (Request::Transfer(_), Some(name)) = (&request, space.clone()) {
            let namespace = some(Namespace { name, ..Default::default() });
            let create = CreateNamespaceRequest { namespace, ..Default::default() };
            steps.push(Step { space: None, request: Request::CreateNamespace(create) });
            // Names that are tied to an image that is not there are collected at any time.
            if let Some(primary) = tied_to(&request) {
                let create = Request::CreateImage(support::create(support::image(&primary)));
                steps.push(Step { space: space.clone(), request: create });
            }
        }
        steps.push(Step { space, request });
    }
    // What all came to.
    steps.push(Step { space: None, request: Request::ListNamespaces(Default::default()) });
    let watches = (0..r.one(&[0, 1, 1, 2])).map(|_| watch(&mut r)).collect();
    Sequence { steps, setup: watches }
}

pub fn some<M>(message: M) -> MessageField<M> {
    MessageField::some(message)
}

/// A valid namespace, mostly the one.
fn valid(r: &mut Rng) -> String {
    let longest = format!("{:x<76}", format!("{TOKEN}-"));
    r.one(&[TOKEN, TOKEN, TOKEN, &format!("{TOKEN}-b"), &format!("{TOKEN}.b_c"), &longest]).into()
}

fn invalid(r: &mut Rng) -> String {
    let end = r.one(&["-", "..x", "/x", "é", " ", "\""]);
    r.one(&[format!("{TOKEN}{end}"), format!("{:x<77}", format!("{TOKEN}-"))])
}

/// The name of a namespace to update: containerd stores those that are invalid (see `known`), so
/// no other request has them.
fn updated(r: &mut Rng) -> String {
    let invalid = format!("{TOKEN}{}", r.one(&["--", "é/", "+"]));
    match r.usize(..20) {
        0 => String::new(),
        1 => r.one(&[invalid, format!("{:y<77}", format!("{TOKEN}-"))]),
        _ => valid(r),
    }
}

/// The name of a namespace that a request is about.
pub fn named(r: &mut Rng) -> String {
    match r.usize(..20) {
        0 => String::new(),
        1 => invalid(r),
        _ => valid(r),
    }
}

/// The header.
fn space(r: &mut Rng) -> Option<String> {
    match r.usize(..40) {
        0 => None,
        1 => Some(String::new()),
        // What a header can hold.
        2 => Some(invalid(r).replace('é', "")),
        3..34 => Some(TOKEN.into()),
        _ => Some(valid(r)),
    }
}

/// With one mistake at most: containerd meets labels in any order.
fn labels(r: &mut Rng) -> BTreeMap<String, String> {
    let mut labels = text::map(r, true);
    if labels.iter().any(|(key, value)| key.len() + value.len() > 4096) {
        labels.remove("");
    }
    labels
}

fn namespaces(r: &mut Rng) -> Request {
    match r.usize(..100) {
        0..12 => {
            Request::GetNamespace(GetNamespaceRequest { name: named(r), ..Default::default() })
        }
        12..22 => Request::ListNamespaces(Default::default()),
        22..40 => Request::CreateNamespace(CreateNamespaceRequest {
            namespace: some(Namespace { name: named(r), labels: labels(r), ..Default::default() }),
            ..Default::default()
        }),
        40..70 => {
            let paths = match r.usize(..3) {
                0 => Vec::new(),
                _ => (0..r.usize(1..=4)).map(|_| path(r)).collect(),
            };
            let mask = some(FieldMask { paths, ..Default::default() });
            let (name, mut labels) = (updated(r), labels(r));
            if name.is_empty() && labels.len() > 1 {
                // Two mistakes at once: of the name, and of a label.
                labels.retain(|key, value| key.len() + value.len() <= 4096);
            }
            Request::UpdateNamespace(UpdateNamespaceRequest {
                namespace: some(Namespace { name, labels, ..Default::default() }),
                update_mask: if r.chance(70) { mask } else { MessageField::none() },
                ..Default::default()
            })
        }
        70..82 => Request::DeleteNamespace(DeleteNamespaceRequest {
            name: named(r),
            ..Default::default()
        }),
        _ => images(r),
    }
}

fn path(r: &mut Rng) -> String {
    match r.usize(..20) {
        0..10 => "labels.a".into(),
        10..16 => format!("labels.{}", r.one(text::KEYS)),
        16 => format!("labels.{}", text::long_key(r, 4095)),
        17 => format!("labels.{}", text::long_key(r, 4097)),
        _ => r.one(&["labels", "name", "", "labels.", "Labels.a", "label.a", "é\"\0"]).into(),
    }
}

pub fn image_name(r: &mut Rng) -> String {
    r.one(&["i", "i", "j", "é \"", "docker.io/library/alpine:3.19"]).into()
}

/// What differs of them is known elsewhere.
pub fn image_labels(r: &mut Rng) -> BTreeMap<String, String> {
    let mut labels = labels(r);
    labels.remove("");
    labels
}

/// The annotations of a target whose names are left to a Transfer.
fn imported(r: &mut Rng) -> BTreeMap<String, String> {
    let source = r.one(&["annotation", "annotation", "annotation", "annotation", "prefix", ""]);
    let mut annotations = vec![("io.containerd.import.ref-source", source.to_owned())];
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        if r.chance(50) {
            // Never the whole name of an image: one that is tied to itself is collected at any time.
            let end = r.one(&[":1", "/b", "@c", "x"]);
            let name = format!("{}{end}", image_name(r));
            annotations.push((key, r.one(&[name.clone(), name, "latest".into()])));
        }
    }
    annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

pub fn images(r: &mut Rng) -> Request {
    let mut image = support::image(&image_name(r));
    image.labels = image_labels(r);
    if r.chance(30) {
        image.target.mut_or_insert_default().annotations = imported(r);
    }
    match r.usize(..10) {
        0..5 => Request::CreateImage(support::create(image)),
        5..7 => {
            Request::UpdateImage(UpdateImageRequest { image: some(image), ..Default::default() })
        }
        _ => {
            let (name, sync) = (image_name(r), r.chance(10));
            Request::DeleteImage(DeleteImageRequest { name, sync, ..Default::default() })
        }
    }
}

fn lease_id(r: &mut Rng) -> String {
    r.one(&["a", "a", "a", "b", "é/\"", "a.b", "", &"x".repeat(600)]).into()
}

fn resource(r: &mut Rng) -> MessageField<Resource> {
    let type_ = r.one(&[
        "content",
        "content",
        "content",
        "images",
        "ingests",
        "snapshots/x",
        "snapshots/y",
        "snapshots",
        "snapshots/",
        "snapshots/x/y",
        "content/x",
        "images/",
        "Content",
        "",
        "é/x",
    ]);
    let content = type_ == "content" && r.chance(80);
    let id = if content { text::digest(r) } else { r.one(&["a", "b", "é", "", "a/b"]).into() };
    some(Resource { id, type_: type_.into(), ..Default::default() })
}

fn leases(r: &mut Rng) -> Request {
    let id = lease_id(r);
    match r.usize(..100) {
        0..30 => {
            // Leases without an id cannot be distinguished, so they get no labels.
            let mut labels = if id.is_empty() { BTreeMap::new() } else { labels(r) };
            if !id.is_empty() && r.chance(15) {
                let until = r.one(&["2999-01-01T00:00:00Z", "soon", ""]);
                labels.insert("containerd.io/gc.expire".into(), until.into());
            }
            Request::CreateLease(CreateRequest { id, labels, ..Default::default() })
        }
        30..40 => {
            Request::DeleteLease(DeleteRequest { id, sync: r.chance(10), ..Default::default() })
        }
        40..55 => {
            let filters = (0..r.usize(..3)).map(|_| lease_filter(r)).collect();
            Request::ListLeases(ListRequest { filters, ..Default::default() })
        }
        55..75 => Request::AddResource(AddResourceRequest {
            id,
            resource: resource(r),
            ..Default::default()
        }),
        75..85 => Request::DeleteResource(DeleteResourceRequest {
            id,
            resource: resource(r),
            ..Default::default()
        }),
        85..95 => Request::ListResources(ListResourcesRequest { id, ..Default::default() }),
        _ => Request::ListNamespaces(Default::default()),
    }
}

pub fn lease_filter(r: &mut Rng) -> String {
    r.one(&[
        "",
        "id",
        "id==a",
        "id!=a",
        "id~=^a",
        "labels.a",
        "labels.a==1",
        "labels.\"a.b\"",
        "labels.x.y.z!=1",
        "labels",
        "created_at",
        "nope==1",
        "id==",
        "id~=(",
        "id==a,labels.a==v",
        "==",
        "é==a b",
    ])
    .into()
}
