//! The services beside Images when no containerd stands behind: Namespaces, Leases, Events,
//! Transfer, Introspection, and the collector.

mod expiry;

use std::time::Duration;

use http::uri::PathAndQuery;
use lmdb_images::api::containers::ListContainersRequest;
use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, ListImagesRequest,
    ListImagesResponse,
};
use lmdb_images::api::imagestore::{ImageReference, ImageStore};
use lmdb_images::api::introspection::{PluginsRequest, PluginsResponse, ServerResponse};
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, ListRequest, ListResponse,
    Resource,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, ListNamespacesRequest,
    ListNamespacesResponse, Namespace,
};
use lmdb_images::api::transfer::TransferRequest;
use lmdb_images::daemon::Daemon;
use lmdb_images::transport::Limits;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tonic::Code;
use tonic::transport::Channel;

use crate::support;
use crate::support::{
    CONTAINERS, Client, EVENTS, Failed, INTROSPECTION, LEASES, NAMESPACES, Protocol, Served,
    TRANSFER, channel, create, grpc, image,
};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

async fn call<R: Message>(
    channel: &Channel,
    service: &str,
    method: &str,
    request: &impl Message,
) -> Result<R, Failed> {
    let bytes =
        grpc(channel, service, method, Some("n"), request.write_to_bytes().unwrap()).await?;
    Ok(R::parse_from_bytes(&bytes).unwrap())
}

/// A subscription that is in place when this returns.
async fn subscribe(served: &Served, filters: &[&str]) -> tonic::Streaming<Vec<u8>> {
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let request = SubscribeRequest {
        filters: filters.iter().map(|f| f.to_string()).collect(),
        ..Default::default()
    };
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let request = tonic::Request::new(request.write_to_bytes().unwrap());
    // Headers come when the subscription is made.
    client.server_streaming(request, path, support::Raw).await.unwrap().into_inner()
}

async fn next(events: &mut tonic::Streaming<Vec<u8>>) -> Result<Envelope, tonic::Status> {
    let event = tokio::time::timeout(TEST_TIMEOUT, events.message()).await.unwrap()?;
    Ok(Envelope::parse_from_bytes(&event.unwrap()).unwrap())
}

async fn made(client: &Client, namespace: &str, name: &str, labels: &[(&str, &str)]) {
    let mut image = image(name);
    image.labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    client.call::<CreateImageResponse>("Create", namespace, &create(image)).await.unwrap();
}

async fn names(client: &Client, namespace: &str) -> Vec<String> {
    let all: ListImagesResponse =
        client.call("List", namespace, &ListImagesRequest::new()).await.unwrap();
    all.images.into_iter().map(|i| i.name).collect()
}

async fn remove(client: &Client, namespace: &str, name: &str, sync: bool) {
    let gone = DeleteImageRequest { name: name.into(), sync, ..Default::default() };
    client.call::<Empty>("Delete", namespace, &gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_image_creates_its_namespace_and_an_empty_one_can_be_deleted() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let client = served.client(Protocol::Ttrpc).await;
    made(&client, "by-image", "i", &[]).await;
    let record = Namespace {
        name: "by-hand".into(),
        labels: [("k".into(), "v".into())].into(),
        ..Default::default()
    };
    let request =
        CreateNamespaceRequest { namespace: MessageField::some(record), ..Default::default() };
    let _: CreateNamespaceResponse = call(&channel, NAMESPACES, "Create", &request).await.unwrap();
    let again = call::<CreateNamespaceResponse>(&channel, NAMESPACES, "Create", &request)
        .await
        .unwrap_err();
    assert!(again.is(Code::AlreadyExists), "{again:?}");
    let listed = async || {
        let all = call(&channel, NAMESPACES, "List", &ListNamespacesRequest::new()).await;
        let all: ListNamespacesResponse = all.unwrap();
        all.namespaces.into_iter().map(|n| (n.name, n.labels.len())).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [("by-hand".to_owned(), 1), ("by-image".to_owned(), 0)]);
    let gone = DeleteNamespaceRequest { name: "by-image".into(), ..Default::default() };
    let refused = call::<Empty>(&channel, NAMESPACES, "Delete", &gone).await.unwrap_err();
    assert!(refused.is(Code::FailedPrecondition), "{refused:?}");
    assert!(refused.message.contains("must be empty, but it still has images"), "{refused:?}");
    remove(&client, "by-image", "i", false).await;
    call::<Empty>(&channel, NAMESPACES, "Delete", &gone).await.unwrap();
    assert_eq!(listed().await, [("by-hand".to_owned(), 1)]);
    let unset = call::<Empty>(&channel, NAMESPACES, "Create", &CreateNamespaceRequest::new())
        .await
        .unwrap_err();
    assert!(unset.is(Code::InvalidArgument), "{unset:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_in_order_whichever_protocol_made_them() {
    let served = Served::start().await;
    let mut all = subscribe(&served, &[]).await;
    let mut some = subscribe(&served, &["topic==\"/images/delete\",event.name==b"]).await;
    for (protocol, name) in [(Protocol::Grpc, "a"), (Protocol::Ttrpc, "b")] {
        let client = served.client(protocol).await;
        made(&client, "n", name, &[("k", "v")]).await;
        remove(&client, "n", name, false).await;
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = next(&mut all).await.unwrap();
        assert_eq!(event.namespace, "n");
        assert!((event.timestamp.seconds - Timestamp::now().seconds).abs() < 60);
        let created = ImageCreate::parse_from_bytes(&event.event.value).unwrap();
        seen.push((event.topic, event.event.type_url.clone(), created.name, created.labels.len()));
    }
    let event = |what: &str, kind: &str, name: &str, labels| {
        let kind = format!("containerd.services.images.v1.Image{kind}");
        (format!("/images/{what}"), kind, name.to_owned(), labels)
    };
    let expected = [
        event("create", "Create", "a", 1),
        event("delete", "Delete", "a", 0),
        event("create", "Create", "b", 1),
        event("delete", "Delete", "b", 0),
    ];
    assert_eq!(seen, expected);
    let one = next(&mut some).await.unwrap();
    assert_eq!(ImageCreate::parse_from_bytes(&one.event.value).unwrap().name, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_and_forwarded_on_both_protocols() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let mut events = subscribe(&served, &[]).await;
    let any = Any { type_url: "x".into(), value: b"abc".to_vec(), ..Default::default() };
    let publish = PublishRequest {
        topic: "/a/b".into(),
        event: MessageField::some(any.clone()),
        ..Default::default()
    };
    call::<Empty>(&channel, EVENTS, "Publish", &publish).await.unwrap();
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.topic.as_str(), event.namespace.as_str()), ("/a/b", "n"));
    assert_eq!(event.event, MessageField::some(any.clone()));
    let elsewhere = Envelope {
        timestamp: MessageField::some(Timestamp { seconds: 5, ..Default::default() }),
        namespace: "other".into(),
        topic: "/c".into(),
        event: MessageField::some(any),
        ..Default::default()
    };
    let forward =
        ForwardRequest { envelope: MessageField::some(elsewhere.clone()), ..Default::default() };
    call::<Empty>(&channel, EVENTS, "Forward", &forward).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap(), elsewhere);
    let Client::Ttrpc(shim) = served.client(Protocol::Ttrpc).await else { unreachable!() };
    let mut request = ttrpc::Request::new();
    request.service = "containerd.services.events.ttrpc.v1.Events".into();
    request.method = "Forward".into();
    request.payload = forward.write_to_bytes().unwrap();
    shim.request(request).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap(), elsewhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_gets_an_error_and_delays_no_writer() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let mut slow = subscribe(&served, &[]).await;
    let event = Any { type_url: "x".into(), value: vec![0; 50_000], ..Default::default() };
    let publish = PublishRequest {
        topic: "/a".into(),
        event: MessageField::some(event),
        ..Default::default()
    };
    for _ in 0..1500 {
        call::<Empty>(&channel, EVENTS, "Publish", &publish).await.unwrap();
    }
    let mut read = 0;
    let error = loop {
        match next(&mut slow).await {
            Ok(_) => read += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "after {read}: {error:?}");
    assert!(error.message().contains("events were missed"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_when_the_daemon_stops() {
    let served = Served::start().await;
    let mut events = subscribe(&served, &[]).await;
    tokio::time::timeout(TEST_TIMEOUT, served.daemon.stop()).await.unwrap();
    let error = next(&mut events).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "lmdb-images is shutting down")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_container_uses_an_image() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let listed = grpc(&channel, CONTAINERS, "List", Some("n"), Vec::new()).await;
    assert_eq!(listed, Ok(Vec::new()), "an empty ListContainersResponse");
    let unnamed = grpc(&channel, CONTAINERS, "List", None, Vec::new()).await.unwrap_err();
    assert!(unnamed.is(Code::FailedPrecondition), "{unnamed:?}");
    let filters = vec!["id=a".into()];
    let request = ListContainersRequest { filters, ..Default::default() };
    let refused = call::<Empty>(&channel, CONTAINERS, "List", &request).await.unwrap_err();
    assert!(refused.is(Code::InvalidArgument), "{refused:?}");
    // Clients try this first, and List if there is no such method.
    let stream = grpc(&channel, CONTAINERS, "ListStream", Some("n"), Vec::new()).await;
    assert!(stream.unwrap_err().is(Code::Unimplemented));
}

fn store(name: &str) -> MessageField<Any> {
    let store = ImageStore { name: name.into(), ..Default::default() };
    MessageField::some(Any {
        type_url: "containerd.types.transfer.ImageStore".into(),
        value: store.write_to_bytes().unwrap(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_between_image_stores_is_a_tag_and_others_are_elsewhere() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let client = served.client(Protocol::Grpc).await;
    made(&client, "n", "a", &[("k", "v")]).await;
    let tag = |from: &str, to: &str| TransferRequest {
        source: store(from),
        destination: store(to),
        ..Default::default()
    };
    for _ in 0..2 {
        call::<Empty>(&channel, TRANSFER, "Transfer", &tag("a", "b")).await.unwrap();
    }
    assert_eq!(names(&client, "n").await, ["a", "b"]);
    let missing =
        call::<Empty>(&channel, TRANSFER, "Transfer", &tag("none", "c")).await.unwrap_err();
    assert!(
        missing.is(Code::NotFound) && missing.message == "image \"none\": not found",
        "{missing:?}"
    );
    let mut pull = tag("a", "b");
    pull.source.as_mut().unwrap().type_url = "containerd.types.transfer.OCIRegistry".into();
    let refused = call::<Empty>(&channel, TRANSFER, "Transfer", &pull).await.unwrap_err();
    assert!(
        refused.is(Code::Unimplemented) && refused.message.contains("image names only"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_its_uuid() {
    let served = Served::start().await;
    let server = async |served: &Served| {
        let channel = channel(served.daemon.grpc()).await.unwrap();
        call::<ServerResponse>(&channel, INTROSPECTION, "Server", &Empty::new()).await.unwrap()
    };
    let first = server(&served).await;
    assert_eq!((first.uuid.len(), first.pid), (36, u64::from(std::process::id())));
    let channel_ = channel(served.daemon.grpc()).await.unwrap();
    let only = PluginsRequest { filters: vec!["id==images".into()], ..Default::default() };
    let plugins: PluginsResponse = call(&channel_, INTROSPECTION, "Plugins", &only).await.unwrap();
    assert_eq!(plugins.plugins.len(), 1);
    assert!(plugins.plugins[0].exports["server"].starts_with("lmdb-images "));
    drop(channel_);
    let (config, dir) = (support::config(served.dir.path(), Limits::default()), served.dir);
    served.daemon.stop().await;
    let again = Served { daemon: Daemon::start(&config).await.unwrap(), dir };
    assert_eq!(server(&again).await.uuid, first.uuid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_one_transfer_at_most() {
    let served = Served::start().await;
    let client = served.client(Protocol::Grpc).await;
    client.call::<CreateImageResponse>("Create", "n", &create(image("a"))).await.unwrap();
    let reference = |n| ImageReference { name: format!("r{n}"), ..Default::default() };
    let names =
        ImageStore { extra_references: (0..1000).map(reference).collect(), ..Default::default() };
    let destination = MessageField::some(Any {
        type_url: "containerd.types.transfer.ImageStore".into(),
        value: names.write_to_bytes().unwrap(),
        ..Default::default()
    });
    let request = TransferRequest { source: store("a"), destination, ..Default::default() };
    let request = request.write_to_bytes().unwrap();
    let mut transfers = tokio::task::JoinSet::new();
    let channel = channel(served.daemon.grpc()).await.unwrap();
    for _ in 0..50 {
        let (channel, request) = (channel.clone(), request.clone());
        transfers.spawn(async move {
            grpc(&channel, TRANSFER, "Transfer", Some("n"), request).await.unwrap();
        });
    }
    // By the end of the first, all the others have come.
    transfers.join_next().await.unwrap().unwrap();
    let other = served.client(Protocol::Ttrpc).await;
    let mut made = 0;
    while !transfers.is_empty() {
        let name = format!("b{made}");
        other.call::<CreateImageResponse>("Create", "n", &create(image(&name))).await.unwrap();
        made += 1;
        while let Some(ended) = transfers.try_join_next() {
            ended.unwrap();
        }
    }
    // About as many as transfers; one, if the first waits for all of them.
    assert!(made > 5, "{made} changes beside 49 transfers");
}
