//! What containerd's own tests ask of its image store, asked over every socket: a table of Updates, and
//! one of filters. Without a containerd it is asked of a daemon that stands alone; with
//! `LMDB_IMAGES_CONTAINERD_BIN=DIR` also of that containerd, and through us in front of it.

use std::collections::BTreeMap;

use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, Image,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use lmdb_images::daemon::{Config, Daemon};
use lmdb_images::transport::Limits;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};
use tonic::Code;

use crate::support;
use crate::support::containerd::Containerd;
use crate::support::{Client, Served, config, create, image};

const OTHER_DIGEST: &str =
    "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

type Pairs<'p> = &'p [(&'p str, &'p str)];

fn owned(pairs: Pairs<'_>) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// An image as an Update gives it: labels and annotations, and what else `change` makes of it.
fn with(labels: Pairs<'_>, annotations: Pairs<'_>, change: impl FnOnce(&mut Image)) -> Image {
    let mut image = Image { labels: owned(labels), ..image("i") };
    image.target.mut_or_insert_default().annotations = owned(annotations);
    change(&mut image);
    image
}

fn retarget(image: &mut Image) {
    let target = image.target.mut_or_insert_default();
    (target.digest, target.size) = (OTHER_DIGEST.into(), 2);
    target.media_type = "application/vnd.oci.image.index.v1+json".into();
}

/// Labels and annotations of the image before every Update.
const LABELS: Pairs<'static> = &[("baz", "boo"), ("foo", "bar")];
const ANNOTATIONS: Pairs<'static> = &[("a", "1"), ("b", "2")];

struct Case {
    what: &'static str,
    given: Image,
    mask: &'static [&'static str],
    expected: Result<Image, Code>,
}

fn cases() -> Vec<Case> {
    let case =
        |what, given: &Image, mask, expected| Case { what, given: given.clone(), mask, expected };
    let nothing = |_: &mut Image| {};
    let before = with(LABELS, ANNOTATIONS, nothing);
    let new = with(&[("new", "label")], &[("c", "3")], retarget);
    let labels_only = Image { labels: new.labels.clone(), ..before.clone() };
    let target_only = Image { target: new.target.clone(), ..before.clone() };
    let invalid = Err(Code::InvalidArgument);
    let broken = |change: fn(&mut Image)| with(LABELS, ANNOTATIONS, change);
    let no_target = broken(|i| i.target.mut_or_insert_default().clear());
    let no_digest = broken(|i| i.target.mut_or_insert_default().digest.clear());
    let no_type = broken(|i| i.target.mut_or_insert_default().media_type.clear());
    let no_size = broken(|i| i.target.mut_or_insert_default().size = 0);
    let negative = broken(|i| i.target.mut_or_insert_default().size = -1);
    let set = with(&[("baz", "bunk")], &[("b", "two")], nothing);
    let one_label = with(&[("baz", "bunk"), ("foo", "bar")], ANNOTATIONS, nothing);
    let one_annotation = with(LABELS, &[("a", "1"), ("b", "two")], nothing);
    let both = with(&[("baz", "bunk"), ("foo", "bar")], &[("a", "1"), ("b", "two")], nothing);
    let less = with(&[("foo", "bar")], ANNOTATIONS, nothing);
    let bare = with(&[], &[], nothing);
    let elsewhere = Image { name: "none".into(), ..before.clone() };
    vec![
        case("all, unchanged", &before, &[], Ok(before.clone())),
        case("all, with no mask", &new, &[], Ok(new.clone())),
        case("all, taken away", &bare, &[], Ok(bare.clone())),
        case("labels", &new, &["labels"], Ok(labels_only)),
        case("target", &new, &["target"], Ok(target_only)),
        case("both", &new, &["labels", "target"], Ok(new.clone())),
        case("one label", &set, &["labels.baz"], Ok(one_label)),
        case("one annotation", &set, &["annotations.b"], Ok(one_annotation.clone())),
        case("one of each", &set, &["labels.baz", "annotations.b"], Ok(both)),
        case(
            "annotations of the target alone",
            &one_annotation,
            &["annotations"],
            Ok(one_annotation.clone()),
        ),
        case("a label that is not given goes", &less, &["labels.baz"], Ok(less.clone())),
        case("an unknown path", &new, &["created_at"], invalid.clone()),
        case("the name", &new, &["name"], invalid.clone()),
        case("no target", &no_target, &[], invalid.clone()),
        case("no digest", &no_digest, &["target"], invalid.clone()),
        case("no media type", &no_type, &[], invalid.clone()),
        case("no size", &no_size, &["target"], invalid.clone()),
        case("a negative size", &negative, &[], invalid),
        case("a missing image", &elsewhere, &[], Err(Code::NotFound)),
    ]
}

/// Without times, which are looked at where they are due.
fn timeless(mut image: Image) -> Image {
    (image.created_at, image.updated_at) = (MessageField::none(), MessageField::none());
    image
}

async fn get(client: &Client, namespace: &str) -> Image {
    let request = GetImageRequest { name: "i".into(), ..Default::default() };
    let reply: GetImageResponse = client.call("Get", namespace, &request).await.unwrap();
    reply.image.unwrap()
}

/// Changes go through `client`, reads through `reader`.
async fn updates(client: &Client, reader: &Client, socket: &str) {
    for (number, case) in cases().into_iter().enumerate() {
        let (namespace, what) = (format!("u{number}"), format!("{}, {socket}", case.what));
        let before = create(with(LABELS, ANNOTATIONS, |_| {}));
        let reply: CreateImageResponse = client.call("Create", &namespace, &before).await.unwrap();
        let created = reply.image.unwrap();
        assert_eq!(created.created_at, created.updated_at, "{what}");
        let paths = case.mask.iter().map(|path| path.to_string()).collect();
        let update_mask = match case.mask {
            [] => MessageField::none(),
            _ => MessageField::some(FieldMask { paths, ..Default::default() }),
        };
        let image = MessageField::some(case.given);
        let request = UpdateImageRequest { image, update_mask, ..Default::default() };
        let answer = client.call::<UpdateImageResponse>("Update", &namespace, &request).await;
        let stored = get(reader, &namespace).await;
        match (answer, case.expected) {
            (Ok(reply), Ok(expected)) => {
                let reply = reply.image.unwrap();
                assert_eq!(reply, stored, "{what}: what is answered is stored");
                assert_eq!(reply.created_at, created.created_at, "{what}");
                let time = |image: &Image| {
                    image.updated_at.as_ref().map(|time| (time.seconds, time.nanos))
                };
                assert!(time(&reply) > time(&created), "{what}");
                assert_eq!(timeless(reply), expected, "{what}");
            }
            (Err(failed), Err(code)) => {
                assert!(failed.is(code), "{what}: {failed:?}");
                assert_eq!(stored, created, "{what}: a refusal changes nothing");
            }
            (answer, expected) => panic!("{what}: {answer:?}, and not {expected:?}"),
        }
        let again = client.call::<CreateImageResponse>("Create", &namespace, &before).await;
        assert!(again.unwrap_err().is(Code::AlreadyExists), "{what}");
        let delete = DeleteImageRequest { name: "i".into(), ..Default::default() };
        client.call::<Empty>("Delete", &namespace, &delete).await.unwrap();
        let again = client.call::<Empty>("Delete", &namespace, &delete).await;
        assert!(again.unwrap_err().is(Code::NotFound), "{what}");
    }
}

async fn filters(client: &Client, reader: &Client, socket: &str) {
    for number in 0..8u32 {
        let mut image = image(&format!("image-{number}"));
        image.labels = owned(&[("parity", ["even", "odd"][number as usize % 2])]);
        image.labels.insert("number".into(), number.to_string());
        if number < 2 {
            image.target.mut_or_insert_default().digest = OTHER_DIGEST.into();
        }
        client.call::<CreateImageResponse>("Create", "f", &create(image)).await.unwrap();
    }
    let digest = format!("target.digest=={OTHER_DIGEST}");
    let all: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];
    for (filters, expected) in [
        (vec![], all),
        (vec!["name==image-3"], &[3]),
        (vec!["name==image-3", "name==image-5"], &[3, 5]),
        (vec!["name~=image-[12]"], &[1, 2]),
        (vec!["name!=image-3"], &[0, 1, 2, 4, 5, 6, 7]),
        (vec!["labels.parity==odd"], &[1, 3, 5, 7]),
        (vec!["labels.parity==odd,labels.number==5"], &[5]),
        (vec!["labels.parity==odd", "labels.number==4"], &[1, 3, 4, 5, 7]),
        (vec!["labels.number"], all),
        (vec!["labels.none"], &[]),
        (vec![digest.as_str()], &[0, 1]),
        (vec!["target.mediatype~=manifest"], all),
        (vec!["name==none"], &[]),
    ] {
        let request = ListImagesRequest {
            filters: filters.iter().map(|filter| filter.to_string()).collect(),
            ..Default::default()
        };
        let reply: ListImagesResponse = reader.call("List", "f", &request).await.unwrap();
        let names: Vec<String> = reply.images.into_iter().map(|image| image.name).collect();
        let expected: Vec<String> = expected.iter().map(|n| format!("image-{n}")).collect();
        assert_eq!(names, expected, "{filters:?}, {socket}");
    }
    let broken = ListImagesRequest { filters: vec!["name==".into()], ..Default::default() };
    let bytes = broken.write_to_bytes().unwrap();
    let refused = reader.raw("List", Some("f"), bytes).await.unwrap_err();
    assert!(refused.is(Code::InvalidArgument), "{refused:?}, {socket}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_mode_passes_containerds_tests_of_a_store() {
    for protocol in support::BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let socket = format!("{protocol:?}");
        updates(&client, &client, &socket).await;
        filters(&client, &client, &socket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readonly_sock_reads_the_images_that_images_sock_stores() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { readonly: true, ..config(dir.path(), Limits::default()) };
    let daemon = Daemon::start(&config).await.unwrap();
    let client = Client::grpc(daemon.grpc()).await;
    let reader = Client::grpc(daemon.readonly().unwrap()).await;
    updates(&client, &reader, "readonly.sock").await;
    filters(&client, &reader, "readonly.sock").await;
    let change = create(image("i")).write_to_bytes().unwrap();
    let refused = reader.raw("Create", Some("n"), change).await.unwrap_err();
    assert!(refused.is(Code::PermissionDenied), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn proxy_mode_passes_containerds_tests_of_a_store() {
    let bin = Containerd::bin();
    for socket in
        ["containerd's own", "containerd.sock", "images.sock", "images.sock.ttrpc", "readonly.sock"]
    {
        let containerd = Containerd::start(&bin).await;
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), Limits::default());
        (config.containerd, config.readonly) = (Some(containerd.socket()), true);
        let daemon = Daemon::start(&config).await.unwrap();
        let client = match socket {
            "containerd.sock" => Client::grpc(daemon.containerd_socket().unwrap()).await,
            "images.sock" | "readonly.sock" => Client::grpc(daemon.grpc()).await,
            "images.sock.ttrpc" => Client::ttrpc(daemon.ttrpc()).await,
            _ => containerd.client().await,
        };
        let reader = match socket {
            "readonly.sock" => Client::grpc(daemon.readonly().unwrap()).await,
            _ => client.clone(),
        };
        updates(&client, &reader, socket).await;
        filters(&client, &reader, socket).await;
        drop((client, reader));
        daemon.stop().await;
    }
}
