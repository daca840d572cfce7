//! What a daemon takes of memory while clients ask for much with little.

use std::path::Path;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use lmdb_images::api::events::PublishRequest;
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::images::{CreateImageResponse, Image, UpdateImageRequest};
use lmdb_images::api::imagestore::{ImageReference, ImageStore};
use lmdb_images::api::namespace::{CreateNamespaceRequest, Namespace};
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::support;
use crate::support::daemon_process::DaemonProcess;
use crate::support::{Client, DIGEST, Failed, channel, create, grpc, image};

/// A daemon of its own for each test: the most that it took is that test's.
struct Starved {
    process: DaemonProcess,
    dir: tempfile::TempDir,
}

impl Starved {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { process: DaemonProcess::start(dir.path()), dir }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("state/images.sock")
    }

    async fn call(&self, method: &str, message: &impl Message) -> Result<Vec<u8>, Failed> {
        let (service, method) = method.rsplit_once('/').unwrap();
        let channel = channel(&self.socket()).await.unwrap();
        grpc(&channel, service, method, Some("n"), message.write_to_bytes().unwrap()).await
    }

    async fn make(&self, image: Image) {
        let client = Client::grpc(&self.socket()).await;
        client.call::<CreateImageResponse>("Create", "n", &create(image)).await.unwrap();
    }

    fn took(&self, most: u64) {
        let peak = self.process.peak_mib();
        println!("at most {peak} MiB");
        assert!(peak <= most, "it took {peak} MiB");
    }
}

fn store(store: &ImageStore) -> MessageField<Any> {
    MessageField::some(Any {
        type_url: "containerd.types.transfer.ImageStore".into(),
        value: store.write_to_bytes().unwrap(),
        ..Any::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_of_many_names_with_many_labels_is_refused() {
    let starved = Starved::start();
    starved.make(image("a")).await;
    let reference = |n| ImageReference { name: format!("r{n}"), ..Default::default() };
    let transfer = |names: usize, labels: usize| TransferRequest {
        source: store(&ImageStore { name: "a".into(), ..Default::default() }),
        destination: store(&ImageStore {
            labels: (0..labels).map(|n| (n.to_string(), "v".into())).collect(),
            extra_references: (0..names).map(reference).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let path = "containerd.services.transfer.v1.Transfer/Transfer";
    for (names, labels, why) in [
        (1000, 60_000, "more than 33554422 bytes of records"),
        (1001, 1, "gives 1001 names"),
        (1, 1_100_000, "more than 65536 fields"),
    ] {
        let refused = starved.call(path, &transfer(names, labels)).await.unwrap_err();
        assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
        assert!(refused.message.contains(why), "{refused:?}");
    }
    starved.call(path, &transfer(1000, 100)).await.unwrap();
    starved.took(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_many_labels_are_listed_one_by_one() {
    let starved = Starved::start();
    for number in 0..150 {
        let labels = (0..20_000).map(|n| (n.to_string(), "v".into())).collect();
        let record = Namespace { name: format!("n{number}"), labels, ..Default::default() };
        let namespace = MessageField::some(record);
        let request = CreateNamespaceRequest { namespace, ..Default::default() };
        let path = "containerd.services.namespaces.v1.Namespaces/Create";
        starved.call(path, &request).await.unwrap();
    }
    let path = "containerd.services.namespaces.v1.Namespaces/List";
    let all = lmdb_images::api::namespace::ListNamespacesRequest::new();
    let refused = starved.call(path, &all).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    starved.took(200);
}

/// A connection whose replies do not come, as there is no room for them.
async fn unread(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(1)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_updates_of_a_large_image_wait_for_the_memory_of_their_replies() {
    let starved = Starved::start();
    let mut large = image("a");
    large.target.as_mut().unwrap().annotations.insert("a".into(), "x".repeat(15 << 20));
    starved.make(large).await;
    let mut change = image("a");
    change.labels.insert("l".into(), "v".into());
    assert_eq!(change.target.digest, DIGEST);
    let mask = FieldMask { paths: vec!["labels.l".into()], ..Default::default() };
    let update = UpdateImageRequest {
        image: MessageField::some(change),
        update_mask: MessageField::some(mask),
        ..Default::default()
    };
    let update = update.write_to_bytes().unwrap();
    let channel = unread(&starved.socket()).await;
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let mut request = Request::new(update.clone());
        request.set_timeout(std::time::Duration::from_secs(5));
        request.metadata_mut().insert("containerd-namespace", "n".parse().unwrap());
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let path = PathAndQuery::from_static("/containerd.services.images.v1.Images/Update");
        calls.spawn(async move {
            grpc.ready().await.unwrap();
            grpc.unary(request, path, support::Raw).await
        });
    }
    while let Some(ended) = calls.join_next().await {
        assert!(ended.unwrap().is_err(), "no reply comes");
    }
    starved.took(350);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_many_labels_wait_in_encoded_form() {
    let starved = Starved::start();
    let socket = channel(&starved.socket()).await.unwrap();
    let mut grpc = tonic::client::Grpc::new(socket);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let unread = grpc.server_streaming(Request::new(Vec::new()), path, support::Raw).await.unwrap();
    let labels = (0..6000).map(|n| (format!("{n:x}"), String::new())).collect();
    let event = ImageCreate { name: "a".into(), labels, ..Default::default() };
    let event = Any {
        type_url: "containerd.services.images.v1.ImageCreate".into(),
        value: event.write_to_bytes().unwrap(),
        ..Any::default()
    };
    assert!(event.value.len() > 40_000 && event.value.len() < 64_000);
    let event = MessageField::some(event);
    let publish = PublishRequest { topic: "/images/create".into(), event, ..Default::default() };
    for _ in 0..1100 {
        starved.call("containerd.services.events.v1.Events/Publish", &publish).await.unwrap();
    }
    drop(unread);
    starved.took(220);
}
