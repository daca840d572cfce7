//! The services beside Images in a daemon without a containerd: Namespaces, Leases, Events, Transfer of a
//! name, Introspection, and a List of Containers that is empty.
//!
//! Each method takes the message of a request and returns the message of the reply. Where stored records
//! decide the size of the reply, it returns bytes with a reservation of the memory budget. The module of
//! each service does the work.

use std::sync::Arc;

use go_compat::quote::quote;
use protobuf::well_known_types::empty::Empty;

use crate::api::containers::{ListContainersRequest, ListContainersResponse};
use crate::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use crate::api::introspection::{PluginsRequest, PluginsResponse, ServerResponse};
use crate::api::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
    ListRequest, ListResourcesRequest,
};
use crate::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
    ListNamespacesRequest, UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use crate::api::transfer::TransferRequest;
use crate::limits::client::Client;
use crate::limits::decoded_size;
use crate::limits::fair_semaphore::FairSemaphore;
use crate::limits::memory::ReplyBuffer;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::required;
use crate::service::containers;
use crate::service::events::OwnEvent;
use crate::service::events::subscription::Subscription;
use crate::service::local::LocalImages;
use crate::service::transfer::TagResult;
use crate::service::{CallContext, Reply, introspection, leases, namespaces, transfer};
use crate::store::{Store, Transaction};

/// The services beside Images on `images.sock`.
#[derive(Debug, Clone)]
pub struct Standalone {
    local: LocalImages,
    transfers: FairSemaphore,
}

/// The most Transfers in the queue of the writer thread. One Transfer may take as long as a thousand other
/// changes, and the changes of other clients wait behind all Transfers in the queue.
const MAX_TRANSFERS: usize = 1;

#[allow(missing_docs)]
impl Standalone {
    /// The services on the store of `local`.
    pub fn new(local: LocalImages) -> Self {
        Self { local, transfers: FairSemaphore::new(MAX_TRANSFERS, MAX_TRANSFERS) }
    }

    /// The Images of the same store.
    pub fn local(&self) -> &LocalImages {
        &self.local
    }

    /// Answers a `GetNamespaceResponse`.
    pub async fn get_namespace(
        &self,
        call: &CallContext,
        request: GetNamespaceRequest,
    ) -> Result<Reply> {
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, _: Cancel| {
            store.read(|s| namespaces::get(s, &request.name, buffer))
        };
        self.local.build_reply(call, None, build).await
    }

    /// Answers a `ListNamespacesResponse`.
    pub async fn list_namespaces(
        &self,
        call: &CallContext,
        _: ListNamespacesRequest,
    ) -> Result<Reply> {
        let build = |store: &Store, buffer: ReplyBuffer<'_>, cancel: Cancel| {
            store.read(|s| namespaces::list(s, buffer, cancel))
        };
        self.local.build_reply(call, None, build).await
    }

    pub async fn create_namespace(
        &self,
        call: &CallContext,
        request: CreateNamespaceRequest,
    ) -> Result<CreateNamespaceResponse> {
        let record = required(request.namespace, "CreateNamespaceRequest.namespace")?;
        let (name, labels) = (record.name.clone(), record.labels.clone());
        let namespace = Namespace::parse(&name)?;
        let (answer, bytes) =
            (record.clone(), decoded_size::decoded(&record, 2 * record.labels.len()));
        let work =
            move |change: &mut Transaction<'_>| namespaces::create(change, &record).map(drop);
        let created = |_: &()| Some(OwnEvent::NamespaceCreated { name, labels });
        self.local.change(call.client, namespace, bytes, work, created).await?;
        Ok(CreateNamespaceResponse { namespace: Some(answer).into(), ..Default::default() })
    }

    pub async fn update_namespace(
        &self,
        call: &CallContext,
        request: UpdateNamespaceRequest,
    ) -> Result<UpdateNamespaceResponse> {
        let update = namespaces::Update::new(&request)?;
        let (namespace, name) = (update.namespace.clone(), update.namespace.to_string());
        let bytes = decoded_size::decoded(&request, 2 * request.namespace.labels.len());
        let labels = request.namespace.into_option().unwrap_or_default().labels;
        let work = move |change: &mut Transaction<'_>| namespaces::update(change, &update);
        let updated = |_: &()| Some(OwnEvent::NamespaceUpdated { name, labels });
        self.local.change(call.client, namespace, bytes, work, updated).await?;
        Ok(UpdateNamespaceResponse::new())
    }

    pub async fn delete_namespace(
        &self,
        call: &CallContext,
        request: DeleteNamespaceRequest,
    ) -> Result<Empty> {
        let name = request.name.clone();
        let missing = |_| Error::not_found(format_args!("namespace {}", quote(&name)));
        let namespace = Namespace::parse(&name).map_err(missing)?;
        let work =
            move |change: &mut Transaction<'_>| namespaces::delete(change, &request.name).map(drop);
        let deleted = |_: &()| Some(OwnEvent::NamespaceDeleted { name });
        self.local.change(call.client, namespace, 0, work, deleted).await?;
        Ok(Empty::new())
    }

    pub async fn create_lease(
        &self,
        call: &CallContext,
        request: CreateRequest,
    ) -> Result<CreateResponse> {
        let bytes = decoded_size::decoded(&request, request.labels.len());
        let collector = Arc::clone(self.local.collector());
        let create = move |change: &mut Transaction<'_>, ns: &Namespace| {
            let lease = leases::create(change, ns, request)?;
            collector.lease_written(ns, &lease.id, &lease.labels);
            Ok(lease)
        };
        let lease = self.change(call, bytes, create).await?;
        Ok(CreateResponse { lease: Some(lease).into(), ..Default::default() })
    }

    pub async fn delete_lease(&self, call: &CallContext, request: DeleteRequest) -> Result<Empty> {
        let (sync, bytes) = (request.sync, decoded_size::decoded(&request, 0));
        self.change(call, bytes, move |change, ns| leases::delete(change, ns, &request.id)).await?;
        if sync {
            self.local.collect().await?;
        }
        Ok(Empty::new())
    }

    /// Answers a `ListResponse`.
    pub async fn list_leases(&self, call: &CallContext, request: ListRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, mut cancel: Cancel| {
            let filter = leases::filter(&request.filters, &mut cancel)?;
            store.read(|s| leases::list(s, &namespace, &filter, buffer, cancel))
        };
        self.local.build_reply(call, None, build).await
    }

    pub async fn add_resource(
        &self,
        call: &CallContext,
        request: AddResourceRequest,
    ) -> Result<Empty> {
        let bytes = decoded_size::decoded(&request, 0);
        let collector = Arc::clone(self.local.collector());
        let add = move |change: &mut Transaction<'_>, ns: &Namespace| {
            let resource = &request.resource;
            let image = (resource.type_ == leases::IMAGES).then(|| resource.id.clone());
            leases::add(change, ns, &request.id, request.resource)?;
            if let Some(image) = image {
                collector.image_leased(ns, &image);
            }
            Ok(())
        };
        self.change(call, bytes, add).await?;
        Ok(Empty::new())
    }

    pub async fn delete_resource(
        &self,
        call: &CallContext,
        request: DeleteResourceRequest,
    ) -> Result<Empty> {
        let bytes = decoded_size::decoded(&request, 0);
        let remove = move |change: &mut Transaction<'_>, ns: &Namespace| {
            leases::remove(change, ns, &request.id, request.resource)
        };
        self.change(call, bytes, remove).await?;
        Ok(Empty::new())
    }

    /// Answers a `ListResourcesResponse`.
    pub async fn list_resources(
        &self,
        call: &CallContext,
        request: ListResourcesRequest,
    ) -> Result<Reply> {
        let namespace = call.namespace()?;
        let build = move |store: &Store, buffer: ReplyBuffer<'_>, _: Cancel| {
            store.read(|s| leases::resources(s, &namespace, &request.id, buffer))
        };
        self.local.build_reply(call, None, build).await
    }

    /// Gives the target of one name to other names. The writer thread does the whole Transfer, one at a time,
    /// so the records of several Transfers are never in memory together.
    pub async fn transfer(&self, call: &CallContext, request: TransferRequest) -> Result<Empty> {
        let namespace = call.namespace()?;
        let tag = Arc::new(transfer::tag(&request)?);
        drop(request);
        let (ns, events, bytes) = (namespace.clone(), Arc::clone(&tag), tag.bytes());
        let (lease, cause) = (call.lease(), call.cause());
        let collector = Arc::clone(self.local.collector());
        // The change owns the permit, because it is made even if its client leaves.
        let permit = self.transfers.acquire(call.client, 1).await;
        let work = move |change: &mut Transaction<'_>| {
            let _permit = permit;
            change.set_cause(cause);
            let tagged = tag.apply(change, &ns, lease.as_deref())?;
            for happened in tag.events(tagged.clone()) {
                collector.observe(&ns, &happened);
            }
            Ok(tagged)
        };
        let tell = self.local.events().clone();
        let emit_events = move |tagged: &TagResult| {
            for happened in events.events(tagged.clone()) {
                tell.emit(&namespace, happened);
            }
        };
        self.local.change_then(call.client, bytes, work, emit_events).await?;
        Ok(Empty::new())
    }

    pub async fn publish(&self, call: &CallContext, request: PublishRequest) -> Result<Empty> {
        let namespace = call.namespace().map_err(publish_error)?;
        self.local.events().publish(&namespace, &request.topic, request.event)?;
        Ok(Empty::new())
    }

    pub async fn forward(&self, request: ForwardRequest) -> Result<Empty> {
        let envelope = required(request.envelope, "ForwardRequest.envelope")?;
        self.local.events().forward(envelope)?;
        Ok(Empty::new())
    }

    pub async fn subscribe(
        &self,
        client: Client,
        request: SubscribeRequest,
    ) -> Result<Subscription> {
        self.local.events().subscribe(self.local.pool(), client, request.filters).await
    }

    pub async fn server(&self, _: Empty) -> Result<ServerResponse> {
        Ok(introspection::server(self.local.store().uuid()))
    }

    pub async fn plugins(
        &self,
        call: &CallContext,
        request: PluginsRequest,
    ) -> Result<PluginsResponse> {
        let root = self.local.store().root().display().to_string();
        let found = move |cancel| introspection::plugins(&request.filters, &root, cancel);
        let plugins = self.local.pool().run(call.client, found).await?;
        Ok(PluginsResponse { plugins, ..Default::default() })
    }

    pub(crate) async fn list_containers(
        &self,
        call: &CallContext,
        request: ListContainersRequest,
    ) -> Result<ListContainersResponse> {
        call.namespace()?;
        let list = move |_| containers::list(&request.filters);
        self.local.pool().run(call.client, list).await
    }

    /// Makes a change in the namespace of the call, without an event.
    async fn change<T, F>(&self, call: &CallContext, bytes: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>, &Namespace) -> Result<T> + Send + 'static,
    {
        let namespace = call.namespace()?;
        let ns = namespace.clone();
        let work = move |change: &mut Transaction<'_>| work(change, &ns);
        self.local.change(call.client, namespace, bytes, work, |_| None).await
    }
}

/// The error of a call's namespace in the words of containerd's Publish.
fn publish_error(error: Error) -> Error {
    let failed = |why: String| format!("failed publishing event: {why}");
    match error {
        Error::FailedPrecondition(why) => Error::FailedPrecondition(failed(why)),
        Error::InvalidArgument(why) => Error::InvalidArgument(failed(why)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_publish_names_its_reason() {
        let failed = |header| publish_error(Namespace::required(header).unwrap_err());
        assert_eq!(
            failed(None),
            Error::FailedPrecondition(
                "failed publishing event: namespace is required: failed precondition".into()
            )
        );
        assert!(matches!(failed(Some("-")), Error::InvalidArgument(m)
            if m.starts_with("failed publishing event: namespace validation: identifier")));
    }
}
