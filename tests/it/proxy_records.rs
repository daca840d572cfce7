//! In front of a containerd, no single record or name keeps the others from being current, and every
//! error of containerd's arrives.

use std::time::Duration;

use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, Image,
    ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use lmdb_images::api::namespace::{ListNamespacesResponse, Namespace};
use lmdb_images::daemon::Daemon;
use lmdb_images::model;
use lmdb_images::service::{CallContext, Images};
use lmdb_images::transport::Limits;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use tempfile::TempDir;
use tonic::Code;

use crate::support::fake_containerd::{FakeContainerd, Scripted};
use crate::support::{
    BOTH, Client, DIGEST, Failed, Protocol, TRANSFER, channel, config, create, grpc, image,
};

const GET: &str = "/containerd.services.images.v1.Images/Get";
const LIST: &str = "/containerd.services.images.v1.Images/List";

fn message(message: &impl Message) -> Scripted {
    Scripted::Message(message.write_to_bytes().unwrap())
}

fn listed(names: &[&str]) -> Scripted {
    let images = names.iter().map(|name| image(name)).collect();
    message(&ListImagesResponse { images, ..Default::default() })
}

fn not_found(name: &str) -> Scripted {
    // As grpc-go writes a header; a name without what needs escaping.
    Scripted::Refusal(Code::NotFound as i32, format!("image%20\"{name}\":%20not%20found"))
}

/// A daemon in front of a containerd whose events are followed, with the namespace `n`.
struct Chain {
    upstream: FakeContainerd,
    daemon: Daemon,
    _dir: TempDir,
}

impl Chain {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstream = FakeContainerd::start(&dir.path().join("c.sock"));
        let namespaces = vec![Namespace { name: "n".into(), ..Default::default() }];
        for (path, answer) in [
            ("/containerd.services.events.v1.Events/Subscribe", Scripted::Stream),
            ("/containerd.services.events.v1.Events/Publish", message(&Empty::new())),
            ("/containerd.services.transfer.v1.Transfer/Transfer", message(&Empty::new())),
            (
                "/containerd.services.namespaces.v1.Namespaces/List",
                message(&ListNamespacesResponse { namespaces, ..Default::default() }),
            ),
            (LIST, listed(&[])),
        ] {
            upstream.script(path, answer);
        }
        let mut config = config(dir.path(), Limits::default());
        config.containerd = Some(upstream.socket().into());
        let daemon = Daemon::start(&config).await.unwrap();
        // A reconciliation of the start that is late would take what a test scripts.
        let (synced, namespace) =
            (daemon.proxy().unwrap().sync_state(), model::Namespace::parse("n").unwrap());
        let known = async {
            while !synced.watched_since_sync(&namespace) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("it is not synced");
        Self { upstream, daemon, _dir: dir }
    }

    async fn client(&self, protocol: Protocol) -> Client {
        match protocol {
            Protocol::Grpc => Client::grpc(self.daemon.grpc()).await,
            Protocol::Ttrpc => Client::ttrpc(self.daemon.ttrpc()).await,
        }
    }

    /// Has the namespace read again, as a Transfer does.
    async fn resync(&self) {
        let channel = channel(self.daemon.containerd_socket().unwrap()).await.unwrap();
        grpc(&channel, TRANSFER, "Transfer", Some("n"), Vec::new()).await.unwrap();
    }

    /// The names that the copy has.
    async fn names(&self) -> Vec<String> {
        let call = CallContext {
            namespace: Some("n".into()),
            client: lmdb_images::limits::client::Client::Own,
            actor: Default::default(),
            reply_limit: 16 << 20,
            headers: http::HeaderMap::new(),
        };
        let local = self.daemon.proxy().unwrap().local();
        let reply = local.list(&call, ListImagesRequest::new()).await.unwrap();
        let found = ListImagesResponse::parse_from_bytes(&reply.message).unwrap();
        found.images.into_iter().map(|image| image.name).collect()
    }

    async fn wait_for(&self, names: &[&str]) {
        let there = async {
            while self.names().await != names {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), there).await.expect("the copy is not so");
    }

    async fn create(&self, names: &[&str]) {
        let client = self.client(Protocol::Grpc).await;
        for &name in names {
            let reply =
                CreateImageResponse { image: Some(image(name)).into(), ..Default::default() };
            self.upstream.script("/containerd.services.images.v1.Images/Create", message(&reply));
            let created: CreateImageResponse =
                client.call("Create", "n", &create(image(name))).await.unwrap();
            assert_eq!(created.image.name, name);
        }
    }
}

fn found(name: &str) -> Scripted {
    message(&GetImageResponse { image: Some(image(name)).into(), ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_containerd_refuses_does_not_stop_a_resync() {
    let chain = Chain::start().await;
    chain.upstream.script(LIST, listed(&["broken", "sound"]));
    chain.upstream.script(GET, found("sound"));
    chain.create(&["broken", "sound"]).await;
    chain.wait_for(&["broken", "sound"]).await;
    // containerd no longer lists one of them, but does not answer NOT_FOUND for it either.
    chain.upstream.script(LIST, listed(&["sound"]));
    chain.upstream.script(GET, Scripted::Refusal(Code::DataLoss as i32, "damaged".into()));
    chain.resync().await;
    chain.wait_for(&["sound"]).await;
    chain.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_with_a_long_name_arrives() {
    let chain = Chain::start().await;
    for protocol in BOTH {
        let client = chain.client(protocol).await;
        for length in [1000, 16_000, 60_000] {
            let name = "x".repeat(length);
            for (method, path) in [
                ("Delete", "/containerd.services.images.v1.Images/Delete"),
                ("Update", "/containerd.services.images.v1.Images/Update"),
                ("Get", GET),
            ] {
                chain.upstream.script(path, not_found(&name));
                let refused = ask(&client, method, &name).await.unwrap_err();
                assert!(refused.is(Code::NotFound), "{protocol:?} {method} {length}: {refused:?}");
                let message = &refused.message;
                assert!(message.starts_with("image \"xxx") && message.ends_with("x\": not found"));
                assert_eq!(length == 1000, *message == format!("image \"{name}\": not found"));
            }
        }
    }
    chain.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_name_that_is_too_long_for_an_error_is_refused_first() {
    let chain = Chain::start().await;
    let name = "x".repeat((64 << 10) + 1);
    for protocol in BOTH {
        let client = chain.client(protocol).await;
        for method in ["Create", "Update", "Delete"] {
            // UNIMPLEMENTED, if the call came to the containerd.
            let refused = ask(&client, method, &name).await.unwrap_err();
            assert!(refused.is(Code::InvalidArgument), "{method}: {refused:?}");
            assert!(refused.message.contains("has 65537 bytes"), "{refused:?}");
        }
    }
    chain.daemon.stop().await;
}

async fn ask(client: &Client, method: &str, name: &str) -> Result<Vec<u8>, Failed> {
    let image = || {
        let mut image = Image { name: name.into(), ..image(name) };
        image.target.mut_or_insert_default().digest = DIGEST.into();
        Some(image).into()
    };
    let name = name.to_owned();
    let request: Vec<u8> = match method {
        "Get" => GetImageRequest { name, ..Default::default() }.write_to_bytes(),
        "Delete" => DeleteImageRequest { name, ..Default::default() }.write_to_bytes(),
        "Update" => UpdateImageRequest { image: image(), ..Default::default() }.write_to_bytes(),
        _ => create(image().unwrap()).write_to_bytes(),
    }
    .unwrap();
    client.raw(method, Some("n"), request).await
}
