//! The actor and the reason that the log of changes has for a change; and which commands begin another epoch.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use lmdb_images::admin::{backup, check, compact, import, recover, restore, stat};
use lmdb_images::api::catalog::{Change, Kind, ListRequest, ListResponse, Origin};
use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, Image, ListImagesResponse, UpdateImageRequest,
    UpdateImageResponse,
};
use lmdb_images::api::namespace::{ListNamespacesResponse, Namespace};
use lmdb_images::store::{LogHead, ReadOnlyStore};
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use tonic::Code;

use crate::support::catalog::Catalog;
use crate::support::containerd::Containerd;
use crate::support::daemon_process::DaemonProcess;
use crate::support::fake_containerd::{FakeContainerd, Scripted};
use crate::support::{BOTH, Client, Protocol, create, image};

/// The log of the store in a folder, beside a daemon or without one.
fn log(root: &Path) -> (LogHead, Vec<Change>) {
    let mut changes = Vec::new();
    let store = ReadOnlyStore::open(root).unwrap();
    let head = store.read(|snapshot| {
        snapshot.for_each_entry(0, &mut |_, entry| {
            changes.push(Change::parse_from_bytes(entry).unwrap());
            Ok(true)
        })?;
        snapshot.log_head()
    });
    (head.unwrap().unwrap(), changes)
}

fn causes(root: &Path) -> Vec<(String, Kind, Origin)> {
    let cause =
        |c: Change| (c.name.clone(), c.kind.enum_value().unwrap(), c.origin.enum_value().unwrap());
    log(root).1.into_iter().map(cause).collect()
}

fn own_comm() -> String {
    std::fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned()
}

async fn client(dir: &Path, protocol: Protocol) -> Client {
    match protocol {
        Protocol::Grpc => Client::grpc(&dir.join("state/images.sock")).await,
        Protocol::Ttrpc => Client::ttrpc(&dir.join("state/images.sock.ttrpc")).await,
    }
}

fn in_front_of(dir: &Path, containerd: &Path) -> DaemonProcess {
    DaemonProcess::start_in(dir, &[("LMDB_IMAGES_CONTAINERD", containerd.into())])
}

async fn delete(client: &Client, name: &str) {
    let gone = DeleteImageRequest { name: name.into(), ..Default::default() };
    let _: Empty = client.call("Delete", "n", &gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_names_the_process_that_asked_for_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = DaemonProcess::start(dir.path());
    for protocol in BOTH {
        let own = client(dir.path(), protocol).await;
        let _: CreateImageResponse = own.call("Create", "n", &create(image("i"))).await.unwrap();
        let update = UpdateImageRequest {
            image: MessageField::some(Image {
                labels: [("l".to_owned(), "v".to_owned())].into(),
                ..image("i")
            }),
            ..Default::default()
        };
        let _: UpdateImageResponse = own.call("Update", "n", &update).await.unwrap();
        let refused: Result<CreateImageResponse, _> =
            own.call("Create", "n", &create(image("i"))).await;
        assert!(refused.unwrap_err().is(tonic::Code::AlreadyExists));
        delete(&own, "i").await;
    }
    let (head, changes) = log(&dir.path().join("root"));
    assert_eq!((head.first, head.last), (1, 6));
    let kinds = [Kind::KIND_CREATED, Kind::KIND_UPDATED, Kind::KIND_DELETED];
    for (change, kind) in changes.iter().zip(kinds.iter().cycle()) {
        let actor = change.actor.as_ref().unwrap();
        let uid = nix::unistd::Uid::effective().as_raw();
        assert_eq!((actor.uid, actor.pid), (Some(uid), std::process::id() as i32));
        assert_eq!(actor.comm, own_comm());
        assert_eq!((change.kind.unwrap(), change.origin.unwrap()), (*kind, Origin::ORIGIN_CLIENT));
        assert_eq!((change.namespace.as_str(), change.name.as_str()), ("n", "i"));
    }
    daemon.stop();
}

async fn import(root: std::path::PathBuf, file: std::path::PathBuf) -> import::bolt::Outcome {
    let run = move || import::bolt::run(&root, &file, false).unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_imported_images_are_logged_with_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = DaemonProcess::start(dir.path());
    let root = dir.path().join("root");
    let own = client(dir.path(), Protocol::Grpc).await;
    let mut old = image("old");
    old.labels.insert("containerd.io/gc.expire".into(), "2001-01-01T00:00:00Z".into());
    let _: CreateImageResponse = own.call("Create", "n", &create(old)).await.unwrap();
    let _: CreateImageResponse = own.call("Create", "n", &create(image("i"))).await.unwrap();
    let gone = DeleteImageRequest { name: "i".into(), sync: true, ..Default::default() };
    let _: Empty = own.call("Delete", "n", &gone).await.unwrap();
    daemon.stop();
    let (created, deleted) = (Kind::KIND_CREATED, Kind::KIND_DELETED);
    let expired = ("old".to_owned(), deleted, Origin::ORIGIN_EXPIRED);
    assert!(causes(&root).contains(&expired), "{:?}", causes(&root));
    let before = log(&root).0;

    let file = dir.path().join("meta.db");
    let packed = include_bytes!("../data/containerd-2.1.9.meta.db.gz");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
    std::fs::write(&file, bytes).unwrap();
    // A second run finds nothing to change.
    for _ in 0..2 {
        let outcome = import(root.clone(), file.clone()).await;
        let (head, changes) = log(&root);
        let imported = &changes[before.last as usize..];
        assert_eq!(head.epoch, before.epoch);
        assert_eq!(imported.len() as u64, outcome.summary.new + outcome.summary.unchanged);
        for change in imported {
            let cause = (change.kind.unwrap(), change.origin.unwrap());
            assert_eq!(cause, (created, Origin::ORIGIN_IMPORT));
            assert!(change.actor.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_compact_keep_the_epoch_a_restore_and_a_recovery_begin_another() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = DaemonProcess::start(dir.path());
    let root = dir.path().join("root");
    let own = client(dir.path(), Protocol::Grpc).await;
    for name in ["a", "b"] {
        let _: CreateImageResponse = own.call("Create", "n", &create(image(name))).await.unwrap();
    }
    let file = dir.path().join("backup");
    let page = |page_token| ListRequest { page_size: 1, page_token, ..ListRequest::default() };
    let catalog = Catalog(own.clone());
    let begun = catalog.call::<ListResponse>("List", page(String::new())).await.unwrap();
    // Beside the daemon, with what only the journal has.
    backup::run(&root, &file, false).unwrap();
    delete(&own, "a").await;
    daemon.stop();
    let (first, _) = log(&root);
    let daemon = DaemonProcess::start(dir.path());
    daemon.stop();
    compact::run(&root).unwrap();
    assert_eq!(log(&root).0, first);
    assert_eq!(stat::run(&root).unwrap().log.unwrap().last, 3);

    let (to, from) = (root.clone(), file.clone());
    let put_back = move || restore::run(&to, &from, true).unwrap();
    tokio::task::spawn_blocking(put_back).await.unwrap();
    let (restored, changes) = log(&root);
    assert_ne!(restored.epoch, first.epoch);
    assert_eq!((restored.first, restored.last, changes.len()), (1, 2, 2));
    // A list that began before cannot go on: the changes between its pages are not in this log.
    let daemon = DaemonProcess::start(dir.path());
    let catalog = Catalog(client(dir.path(), Protocol::Grpc).await);
    let refused = catalog.call::<ListResponse>("List", page(begun.next_page_token)).await;
    let refused = refused.unwrap_err();
    assert!(refused.is(Code::FailedPrecondition, "EPOCH_CHANGED"), "{refused:?}");
    daemon.stop();
    assert!(check::run(&root).unwrap().is_whole());

    let to = dir.path().join("recovered");
    let (from, fresh) = (root.clone(), to.clone());
    let saved = move || recover::run(&from, Some(&fresh)).unwrap();
    assert!(tokio::task::spawn_blocking(saved).await.unwrap().is_complete());
    let (recovered, changes) = log(&to);
    assert!(recovered.epoch != restored.epoch && recovered.is_empty() && changes.is_empty());
    assert!(check::run(&to).unwrap().is_whole());
}

fn message(message: &impl Message) -> Scripted {
    Scripted::Message(message.write_to_bytes().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_proxy_mode_changes_of_clients_and_found_changes_have_different_origins() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let upstream = FakeContainerd::start(&dir.path().join("c.sock"));
    let namespaces = vec![Namespace { name: "n".into(), ..Default::default() }];
    let found = ListImagesResponse { images: vec![image("found")], ..Default::default() };
    let get = lmdb_images::api::images::GetImageResponse {
        image: Some(image("found")).into(),
        ..Default::default()
    };
    let made = CreateImageResponse { image: Some(image("made")).into(), ..Default::default() };
    for (path, answer) in [
        ("/containerd.services.events.v1.Events/Subscribe", Scripted::Stream),
        ("/containerd.services.events.v1.Events/Publish", message(&Empty::new())),
        (
            "/containerd.services.namespaces.v1.Namespaces/List",
            message(&ListNamespacesResponse { namespaces, ..Default::default() }),
        ),
        ("/containerd.services.images.v1.Images/List", message(&found)),
        ("/containerd.services.images.v1.Images/Get", message(&get)),
        ("/containerd.services.images.v1.Images/Create", message(&made)),
    ] {
        upstream.script(path, answer);
    }
    let daemon = in_front_of(dir.path(), upstream.socket());
    let (created, resync) = (Kind::KIND_CREATED, Origin::ORIGIN_RESYNC);
    logs(&root, &("found".into(), created, resync)).await;
    let own = client(dir.path(), Protocol::Grpc).await;
    let _: CreateImageResponse = own.call("Create", "n", &create(image("made"))).await.unwrap();
    let made = ("made".into(), created, Origin::ORIGIN_CLIENT);
    assert!(causes(&root).contains(&made), "{:?}", causes(&root));
    let (_, changes) = log(&root);
    let actors: Vec<_> = changes.iter().map(|c| c.actor.as_ref().map(|a| a.comm.clone())).collect();
    assert_eq!(actors[..2], [None, Some(own_comm())]);
    daemon.stop();
}

/// Waits until the log has a change.
async fn logs(root: &Path, change: &(String, Kind, Origin)) {
    let logged = async {
        while !causes(root).contains(change) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), logged).await;
    waited.unwrap_or_else(|_| panic!("{change:?} is not in {:?}", causes(root)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn changes_of_others_in_a_real_containerd_are_logged_as_seen_or_found_after_a_gap() {
    let containerd = Containerd::start(&Containerd::bin()).await;
    let others = containerd.client().await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let (created, deleted) = (Kind::KIND_CREATED, Kind::KIND_DELETED);
    let create = async |client: &Client, name: &str| {
        let _: CreateImageResponse =
            client.call("Create", "n", &create(image(name))).await.unwrap();
    };
    create(&others, "before").await;
    let daemon = in_front_of(dir.path(), &containerd.socket());
    logs(&root, &("before".into(), created, Origin::ORIGIN_RESYNC)).await;
    create(&client(dir.path(), Protocol::Grpc).await, "ours").await;
    create(&others, "theirs").await;
    logs(&root, &("theirs".into(), created, Origin::ORIGIN_BEHIND)).await;
    delete(&others, "ours").await;
    logs(&root, &("ours".into(), deleted, Origin::ORIGIN_BEHIND)).await;
    daemon.stop();
    // No client sees these.
    create(&others, "meanwhile").await;
    delete(&others, "theirs").await;
    let daemon = in_front_of(dir.path(), &containerd.socket());
    logs(&root, &("meanwhile".into(), created, Origin::ORIGIN_RESYNC)).await;
    logs(&root, &("theirs".into(), deleted, Origin::ORIGIN_RESYNC)).await;
    daemon.stop();
    assert!(causes(&root).contains(&("ours".into(), created, Origin::ORIGIN_CLIENT)));
    assert_eq!(causes(&root).len(), 6, "{:?}", causes(&root));
    assert!(check::run(&root).unwrap().is_whole());
}
