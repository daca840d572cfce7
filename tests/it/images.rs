//! Images over real sockets, on both protocols.

use lmdb_images::api::health::{HealthCheckRequest, HealthCheckResponse};
use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, Image,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use lmdb_images::api::version::VersionResponse;
use lmdb_images::daemon::Daemon;
use lmdb_images::transport::Limits;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use tonic::Code;

use crate::support;
use crate::support::{BOTH, IMAGES, Protocol, Served, channel, create, grpc, image};

fn get(name: &str) -> GetImageRequest {
    GetImageRequest { name: name.into(), ..Default::default() }
}

fn list(filters: &[&str]) -> ListImagesRequest {
    ListImagesRequest {
        filters: filters.iter().map(|f| f.to_string()).collect(),
        ..Default::default()
    }
}

/// An image of this many bytes.
fn large(name: &str, bytes: usize) -> Image {
    let mut image = image(name);
    image.target.as_mut().unwrap().annotations.insert("filler".into(), "x".repeat(bytes));
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn one_protocol_reads_the_writes_of_the_other() {
    let served = Served::start().await;
    for (writer, reader) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
        let (writer, reader) = (served.client(writer).await, served.client(reader).await);
        let made: CreateImageResponse =
            writer.call("Create", "n", &create(image("a"))).await.unwrap();
        let got: GetImageResponse = reader.call("Get", "n", &get("a")).await.unwrap();
        assert_eq!(made.image, got.image);
        let change = UpdateImageRequest {
            image: MessageField::some(Image {
                labels: [("k".into(), "v".into())].into(),
                ..image("a")
            }),
            ..Default::default()
        };
        let changed: UpdateImageResponse = writer.call("Update", "n", &change).await.unwrap();
        assert_eq!(changed.image.created_at, made.image.created_at);
        let listed: ListImagesResponse =
            reader.call("List", "n", &list(&["labels.k==v"])).await.unwrap();
        assert_eq!(listed.images, [changed.image.unwrap()]);
        let gone = DeleteImageRequest { name: "a".into(), ..Default::default() };
        let _: Empty = writer.call("Delete", "n", &gone).await.unwrap();
        let none = reader.call::<GetImageResponse>("Get", "n", &get("a")).await.unwrap_err();
        assert!(none.is(Code::NotFound) && none.message == "image \"a\": not found", "{none:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_end_containerd_are_invalid_arguments() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let without_target = Image { name: "i".into(), ..Image::default() };
        for (method, message) in [
            ("Create", Vec::new()),
            ("Update", Vec::new()),
            ("Create", create(without_target.clone()).write_to_bytes().unwrap()),
            ("Update", create(without_target).write_to_bytes().unwrap()),
        ] {
            let refused = client.raw(method, Some("n"), message).await.unwrap_err();
            assert!(refused.is(Code::InvalidArgument), "{refused:?}");
            assert!(refused.message.contains("must be set"), "{refused:?}");
        }
        let listed: ListImagesResponse = client.call("List", "n", &list(&[])).await.unwrap();
        assert!(listed.images.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_is_an_invalid_argument() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        // Field 1 with a length past the end; field 1 that is not UTF-8.
        for bytes in [&b"\x0a\x7f"[..], b"\x0a\x02\xff\xfe"] {
            let refused = client.raw("Get", Some("n"), bytes.to_vec()).await.unwrap_err();
            assert!(refused.is(Code::InvalidArgument), "{refused:?}");
            assert!(refused.message.contains("GetImageRequest"), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_over_the_limit_is_refused_with_its_size() {
    let served = Served::start().await;
    let (by_grpc, by_ttrpc) =
        (served.client(Protocol::Grpc).await, served.client(Protocol::Ttrpc).await);
    for i in 0..5 {
        let _: CreateImageResponse =
            by_grpc.call("Create", "n", &create(large(&format!("{i}"), 1 << 20))).await.unwrap();
    }
    let five: ListImagesResponse = by_grpc.call("List", "n", &list(&[])).await.unwrap();
    let size = five.compute_size();
    let refused = by_ttrpc.call::<ListImagesResponse>("List", "n", &list(&[])).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    let wording = format!("trying to send message larger than max ({size} vs. ");
    assert!(refused.message.contains(&wording), "{}", refused.message);
    // What fits is still answered, by the same connection.
    let one: ListImagesResponse = by_ttrpc.call("List", "n", &list(&["name==3"])).await.unwrap();
    assert_eq!(one.images.len(), 1);
    for i in 5..17 {
        let _: CreateImageResponse =
            by_grpc.call("Create", "n", &create(large(&format!("{i}"), 1 << 20))).await.unwrap();
    }
    let refused = by_grpc.call::<ListImagesResponse>("List", "n", &list(&[])).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    assert!(refused.message.contains(" vs. 16777216)"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_reply_would_not_fit_leaves_nothing() {
    let served = Served::start().await;
    let client = served.client(Protocol::Ttrpc).await;
    let big = create(large("big", (4 << 20) - 2000));
    let _: CreateImageResponse = client.call("Create", "n", &big).await.unwrap();
    // The request is small; the record that it asks for is not.
    let mut grown = UpdateImageRequest { image: big.image.clone(), ..Default::default() };
    let image = grown.image.as_mut().unwrap();
    image.labels.insert("more".into(), "x".repeat(4000));
    image.target.as_mut().unwrap().annotations.clear();
    grown.update_mask.mut_or_insert_default().paths = vec!["labels".into()];
    let refused = client.call::<UpdateImageResponse>("Update", "n", &grown).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    let got: GetImageResponse = client.call("Get", "n", &get("big")).await.unwrap();
    assert!(got.image.labels.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_the_limit_is_refused_and_the_connection_lives() {
    let served = Served::start().await;
    let client = served.client(Protocol::Grpc).await;
    let message = create(large("big", 16 << 20)).write_to_bytes().unwrap();
    let refused = client.raw("Create", Some("n"), message).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    assert!(refused.message.contains("received message larger than max"), "{refused:?}");
    let _: CreateImageResponse = client.call("Create", "n", &create(image("small"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_whole() {
    let served = Served::start().await;
    for (protocol, size) in [(Protocol::Grpc, 15 << 20), (Protocol::Ttrpc, 4_000_000)] {
        let client = served.client(protocol).await;
        let name = format!("{protocol:?}");
        let sent = large(&name, size);
        let _: CreateImageResponse =
            client.call("Create", "n", &create(sent.clone())).await.unwrap();
        let got: GetImageResponse = client.call("Get", "n", &get(&name)).await.unwrap();
        assert_eq!(got.image.target, sent.target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_all_get_their_answer() {
    let served = Served::start().await;
    let clients = [served.client(Protocol::Grpc).await, served.client(Protocol::Ttrpc).await];
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..400 {
        let client = clients[i % 2].clone();
        calls.spawn(async move {
            // Every name twice: the second of the two is refused.
            let name = format!("{:03}", i / 2);
            client.call::<CreateImageResponse>("Create", "n", &create(image(&name))).await
        });
    }
    let answers = calls.join_all().await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (200, 200));
    assert!(refused.into_iter().all(|r| r.unwrap_err().is(Code::AlreadyExists)));
    let listed: ListImagesResponse = clients[1].call("List", "n", &list(&[])).await.unwrap();
    let names: Vec<_> = listed.images.iter().map(|i| i.name.clone()).collect();
    assert_eq!(names, (0..200).map(|i| format!("{i:03}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_as_it_was_when_the_daemon_starts_again() {
    let served = Served::start().await;
    let client = served.client(Protocol::Ttrpc).await;
    let made: CreateImageResponse = client.call("Create", "n", &create(image("a"))).await.unwrap();
    let (config, dir) = (support::config(served.dir.path(), Limits::default()), served.dir);
    served.daemon.stop().await;
    let again = Served { daemon: Daemon::start(&config).await.unwrap(), dir };
    let got: GetImageResponse =
        again.client(Protocol::Grpc).await.call("Get", "n", &get("a")).await.unwrap();
    assert_eq!(got.image, made.image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused() {
    let served = Served::start().await;
    let mut config = support::config(served.dir.path(), Limits::default());
    let refused = Daemon::start(&config).await.unwrap_err();
    assert!(refused.message().contains("is in use by another daemon (pid "), "{refused}");
    config.state = served.dir.path().join("other");
    let refused = Daemon::start(&config).await.unwrap_err();
    assert!(refused.message().contains("in use by another process (pid "), "{refused}");
    // And the first is not disturbed.
    served
        .client(Protocol::Grpc)
        .await
        .call::<ListImagesResponse>("List", "n", &list(&[]))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_must_be_valid() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        let missing = client.raw("List", None, Vec::new()).await.unwrap_err();
        assert!(missing.is(Code::FailedPrecondition), "{missing:?}");
        let bad = client.raw("List", Some("a/b"), Vec::new()).await.unwrap_err();
        assert!(bad.is(Code::InvalidArgument), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_and_health_answer_and_other_services_name_this_daemon() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let version =
        grpc(&channel, "containerd.services.version.v1.Version", "Version", None, Vec::new()).await;
    let version = VersionResponse::parse_from_bytes(&version.unwrap()).unwrap();
    assert_eq!(
        (version.version.as_str(), version.revision.as_str()),
        (env!("CARGO_PKG_VERSION"), "lmdb-images")
    );

    let health = |service: &str| {
        let asked = HealthCheckRequest { service: service.into(), ..Default::default() };
        let (channel, asked) = (channel.clone(), asked.write_to_bytes().unwrap());
        async move { grpc(&channel, "grpc.health.v1.Health", "Check", None, asked).await }
    };
    for known in ["", IMAGES] {
        let answer = HealthCheckResponse::parse_from_bytes(&health(known).await.unwrap()).unwrap();
        assert_eq!(answer.status.value(), 1);
    }
    assert!(health("other").await.unwrap_err().is(Code::NotFound));

    let elsewhere =
        grpc(&channel, "containerd.services.content.v1.Content", "Info", None, Vec::new()).await;
    let elsewhere = elsewhere.unwrap_err();
    assert!(elsewhere.is(Code::Unimplemented), "{elsewhere:?}");
    assert!(elsewhere.message.contains("serves image names only"), "{elsewhere:?}");
    let typo = grpc(&channel, IMAGES, "Gett", None, Vec::new()).await.unwrap_err();
    assert!(typo.is(Code::Unimplemented) && typo.message.contains("Gett"), "{typo:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watch_reports_the_shutdown() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let watch = async |service: &str| {
        let asked = HealthCheckRequest { service: service.into(), ..Default::default() };
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let request = tonic::Request::new(asked.write_to_bytes().unwrap());
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
        grpc.server_streaming(request, path, support::Raw).await.unwrap().into_inner()
    };
    let next = async |stream: &mut tonic::Streaming<Vec<u8>>| {
        let message = stream.message().await.unwrap()?;
        Some(HealthCheckResponse::parse_from_bytes(&message).unwrap().status.value())
    };
    let (mut whole, mut other) = (watch("").await, watch("other").await);
    assert_eq!(next(&mut whole).await, Some(1), "serving");
    assert_eq!(next(&mut other).await, Some(3), "unknown, and no error: it might come to be");
    served.daemon.stop().await;
    assert_eq!(next(&mut whole).await, Some(2), "not serving");
    assert_eq!(next(&mut whole).await, None);
    assert_eq!(next(&mut other).await, None);
}
