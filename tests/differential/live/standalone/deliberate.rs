//! containerd's answers where lmdb-images answers otherwise on purpose, and no rule of `known` covers it. They
//! are in docs/compatibility.md. tests/it/deviations.rs tests the answers of lmdb-images.

use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::{ForwardRequest, PublishRequest};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, GetNamespaceRequest, GetNamespaceResponse, ListNamespacesResponse,
    Namespace, UpdateNamespaceRequest,
};
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tonic::Code;
use tonic::transport::Channel;

use super::request::Request;
use super::watch::{LET_MARKERS, Watch};
use crate::support::containerd::Containerd;
use crate::support::{Failed, channel, grpc};

async fn ask(channel: &Channel, space: &str, request: Request) -> Result<Vec<u8>, Failed> {
    let (service, method, message) = request.parts();
    grpc(channel, service, method, Some(space), message).await
}

fn namespace(name: &str) -> MessageField<Namespace> {
    let labels = [("a".to_owned(), "1".to_owned())].into();
    MessageField::some(Namespace { name: name.into(), labels, ..Default::default() })
}

fn create(name: &str) -> Request {
    let namespace = namespace(name);
    Request::CreateNamespace(CreateNamespaceRequest { namespace, ..Default::default() })
}

fn failed(code: Code, message: &str) -> Failed {
    Failed { code: code as i32, message: message.into() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn containerd_answers_as_is_written() {
    let bin = Containerd::bin();
    let containerd = Containerd::start(&bin).await;
    let theirs = channel(&containerd.socket()).await.unwrap();

    // bolt holds the version of its schema beside the namespaces.
    let answer = ask(&theirs, "n", create("version")).await;
    assert_eq!(answer.unwrap_err(), failed(Code::Unknown, "incompatible value"));

    // containerd has stored the update although it cannot publish its event.
    let update = UpdateNamespaceRequest { namespace: namespace("a-"), ..Default::default() };
    let answer = ask(&theirs, "", Request::UpdateNamespace(update)).await;
    assert!(answer.is_err_and(|e| e.is(Code::Unknown)));
    let get = GetNamespaceRequest { name: "a-".into(), ..Default::default() };
    let reply = ask(&theirs, "n", Request::GetNamespace(get)).await.unwrap();
    let reply = GetNamespaceResponse::parse_from_bytes(&reply).unwrap();
    assert_eq!(reply.namespace, namespace("a-"));

    // All events of containerd have fields that filters may name.
    let filters = ["event.id==i".to_owned(), LET_MARKERS.to_owned()];
    let watch = Watch::open(&theirs, &filters).await.unwrap();
    let deleted = Any {
        type_url: "containerd.events.ContainerDelete".into(),
        value: b"\x0a\x01i".to_vec(),
        ..Any::default()
    };
    let publish =
        PublishRequest { topic: "/a".into(), event: Some(deleted).into(), ..Default::default() };
    ask(&theirs, "S0000001", Request::Publish(publish)).await.unwrap();
    assert_eq!(watch.close(1).await.len(), 1);

    // An event has no bound of its own.
    let large = Envelope {
        namespace: "n".into(),
        topic: "/a".into(),
        timestamp: Some(Timestamp::now()).into(),
        event: Some(Any { type_url: "x".into(), value: vec![0; 1 << 20], ..Any::default() }).into(),
        ..Envelope::default()
    };
    let forward = ForwardRequest { envelope: Some(large).into(), ..Default::default() };
    ask(&theirs, "n", Request::Forward(forward)).await.unwrap();

    // A transfer that fails has taken a lease, and so made the namespace.
    if containerd.version >= (2, 0, 0) {
        let url = "containerd.types.transfer.ImageStore";
        let store = || Some(Any { type_url: url.into(), ..Any::default() }).into();
        let transfer =
            TransferRequest { source: store(), destination: store(), ..Default::default() };
        ask(&theirs, "transfer", Request::Transfer(transfer)).await.unwrap_err();
        let list = ask(&theirs, "n", Request::ListNamespaces(Default::default())).await.unwrap();
        let list = ListNamespacesResponse::parse_from_bytes(&list).unwrap().namespaces;
        assert!(list.iter().any(|n| n.name == "transfer"), "{list:?}");
    }
}
