//! Where the services beside Images answer otherwise than containerd, on purpose: one test for each
//! row of the second table of `docs/compatibility.md`, against our daemon only. `differential.rs`
//! shows that all else is alike.

use lmdb_images::api::events::PublishRequest;
use lmdb_images::api::imagestore::{ImageReference, ImageStore};
use lmdb_images::api::introspection::{PluginsRequest, PluginsResponse};
use lmdb_images::api::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
    ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse, Resource,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
    Namespace, UpdateNamespaceRequest,
};
use lmdb_images::api::transfer::TransferRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{
    EVENTS, Failed, INTROSPECTION, LEASES, NAMESPACES, Served, TRANSFER, channel, grpc,
};

struct Ours {
    channel: Channel,
    _served: Served,
}

impl Ours {
    async fn start() -> Self {
        let served = Served::start().await;
        let channel = channel(served.daemon.grpc()).await.unwrap();
        Self { channel, _served: served }
    }

    async fn call<R: Message>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Failed> {
        let message = request.write_to_bytes().unwrap();
        let bytes = grpc(&self.channel, service, method, Some("n"), message).await?;
        Ok(R::parse_from_bytes(&bytes).unwrap())
    }

    /// Refused with that code; says how.
    async fn refused(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
        code: Code,
    ) -> String {
        let failed = self.call::<Empty>(service, method, request).await.unwrap_err();
        assert!(failed.is(code), "{failed:?} is not {code:?}");
        failed.message
    }

    async fn namespaces(&self) -> Vec<String> {
        let list: ListNamespacesResponse =
            self.call(NAMESPACES, "List", &ListNamespacesRequest::default()).await.unwrap();
        list.namespaces.into_iter().map(|namespace| namespace.name).collect()
    }
}

fn namespace(name: &str, key: &str, value: &str) -> MessageField<Namespace> {
    let labels = [(key.to_owned(), value.to_owned())].into();
    MessageField::some(Namespace { name: name.into(), labels, ..Default::default() })
}

fn update(name: &str) -> UpdateNamespaceRequest {
    UpdateNamespaceRequest { namespace: namespace(name, "a", "1"), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_its_record_is_refused() {
    let ours = Ours::start().await;
    let empty = Empty::default();
    for (service, method, field) in [
        (NAMESPACES, "Create", "CreateNamespaceRequest.namespace"),
        (NAMESPACES, "Update", "UpdateNamespaceRequest.namespace"),
        (LEASES, "AddResource", "AddResourceRequest.resource"),
        (LEASES, "DeleteResource", "DeleteResourceRequest.resource"),
        (EVENTS, "Forward", "ForwardRequest.envelope"),
    ] {
        let message = ours.refused(service, method, &empty, Code::InvalidArgument).await;
        assert_eq!(message, format!("{field} must be set: invalid argument"));
    }
    assert!(ours.namespaces().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_of_a_namespace_or_a_lease_is_refused() {
    let ours = Ours::start().await;
    let empty_key = |map: &str, value: &str| {
        format!(
            "{map}: the key of value \"{value}\" is empty; give it a name or leave it out: invalid \
             argument"
        )
    };
    for value in ["v", ""] {
        let create =
            CreateNamespaceRequest { namespace: namespace("m", "", value), ..Default::default() };
        let refused = ours.refused(NAMESPACES, "Create", &create, Code::InvalidArgument).await;
        assert_eq!(refused, empty_key("namespace.Labels", value));
    }
    let update =
        UpdateNamespaceRequest { namespace: namespace("m", "", "v"), ..Default::default() };
    let refused = ours.refused(NAMESPACES, "Update", &update, Code::InvalidArgument).await;
    assert_eq!(refused, empty_key("namespace.Labels", "v"));
    let labels = [(String::new(), "v".to_owned())].into();
    let create = CreateRequest { id: "l".into(), labels, ..Default::default() };
    let refused = ours.refused(LEASES, "Create", &create, Code::InvalidArgument).await;
    assert_eq!(refused, empty_key("lease.Labels", "v"));
    assert!(ours.namespaces().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_an_invalid_namespace_stores_nothing() {
    let ours = Ours::start().await;
    for (name, why) in
        [("a-", "identifier \"a-\" must match"), ("", "identifier must not be empty")]
    {
        let message =
            ours.refused(NAMESPACES, "Update", &update(name), Code::InvalidArgument).await;
        assert!(message.starts_with(why), "{message}");
    }
    assert!(ours.namespaces().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_may_be_called_version() {
    let ours = Ours::start().await;
    let create =
        CreateNamespaceRequest { namespace: namespace("version", "a", "1"), ..Default::default() };
    ours.call::<CreateNamespaceResponse>(NAMESPACES, "Create", &create).await.unwrap();
    assert_eq!(ours.namespaces().await, ["version"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_wants_an_id_and_a_snapshotter_a_name() {
    let ours = Ours::start().await;
    let lease = CreateRequest { id: "l".into(), ..Default::default() };
    ours.call::<CreateResponse>(LEASES, "Create", &lease).await.unwrap();
    for (type_, id, why) in [
        ("images", "", "AddResourceRequest.resource.id must be set: invalid argument"),
        ("snapshots/", "a", "invalid snapshot resource type snapshots/: invalid argument"),
    ] {
        let resource = Resource { type_: type_.into(), id: id.into(), ..Default::default() };
        let resource = MessageField::some(resource);
        let add =
            AddResourceRequest { id: "l".into(), resource: resource.clone(), ..Default::default() };
        let message = ours.refused(LEASES, "AddResource", &add, Code::InvalidArgument).await;
        assert_eq!(message, why);
        // As in containerd, it is not there to be taken away.
        let delete = DeleteResourceRequest { id: "l".into(), resource, ..Default::default() };
        ours.call::<Empty>(LEASES, "DeleteResource", &delete).await.unwrap();
    }
    let list = ListResourcesRequest { id: "l".into(), ..Default::default() };
    let list: ListResourcesResponse = ours.call(LEASES, "ListResources", &list).await.unwrap();
    assert!(list.resources.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_without_an_id_is_never_found() {
    let ours = Ours::start().await;
    let delete = |id: &str| DeleteRequest { id: id.into(), ..Default::default() };
    let message = ours.refused(LEASES, "Delete", &delete(""), Code::NotFound).await;
    assert_eq!(message, "lease \"\": not found");
    let lease = CreateRequest { id: "l".into(), ..Default::default() };
    ours.call::<CreateResponse>(LEASES, "Create", &lease).await.unwrap();
    ours.call::<Empty>(LEASES, "Delete", &delete("l")).await.unwrap();
    let message = ours.refused(LEASES, "Delete", &delete(""), Code::NotFound).await;
    assert_eq!(message, "lease \"\": not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_fails_makes_no_namespace() {
    let ours = Ours::start().await;
    let store = |name: &str| {
        let prefix = ImageReference { name: "p".into(), is_prefix: true, ..Default::default() };
        let store =
            ImageStore { name: name.into(), extra_references: vec![prefix], ..Default::default() };
        MessageField::some(Any {
            type_url: "containerd.types.transfer.ImageStore".into(),
            value: store.write_to_bytes().unwrap(),
            ..Default::default()
        })
    };
    let tag = TransferRequest { source: store("a"), destination: store("b"), ..Default::default() };
    let message = ours.refused(TRANSFER, "Transfer", &tag, Code::NotFound).await;
    assert_eq!(message, "image \"a\": not found");
    assert!(ours.namespaces().await.is_empty());
    let leases: ListResponse = ours.call(LEASES, "List", &ListRequest::default()).await.unwrap();
    assert!(leases.leases.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_holds_64_kib() {
    let ours = Ours::start().await;
    let publish = |size| {
        let event = Any { type_url: "x".into(), value: vec![0; size], ..Default::default() };
        PublishRequest { topic: "/a".into(), event: Some(event).into(), ..Default::default() }
    };
    ours.call::<Empty>(EVENTS, "Publish", &publish(65_000)).await.unwrap();
    let message = ours.refused(EVENTS, "Publish", &publish(65_536), Code::ResourceExhausted).await;
    assert!(message.starts_with("the event has 655"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_the_services_of_this_socket() {
    let ours = Ours::start().await;
    let plugins: PluginsResponse =
        ours.call(INTROSPECTION, "Plugins", &PluginsRequest::default()).await.unwrap();
    let ids: Vec<_> = plugins.plugins.iter().map(|plugin| plugin.id.as_str()).collect();
    assert!(ids.contains(&"images") && !ids.contains(&"containers"), "{ids:?}");
    assert!(plugins.plugins.iter().all(|plugin| plugin.type_ == "io.containerd.grpc.v1"));
}
