//! The services that clients call around image names, when no containerd stands behind: Namespaces,
//! Leases, Events, Transfer of a name, Introspection.
//!
//! Each method takes a request's message and gives the reply's; the work is done by the module of
//! the service.

use std::sync::Arc;

use protobuf::well_known_types::empty::Empty;

use super::events::{Happened, Subscription};
use super::images::{self, Written};
use super::local::Local;
use super::message::required;
use super::{Call, introspection, leases, namespaces, transfer};
use crate::api::events::{ForwardRequest, PublishRequest, SubscribeRequest};
use crate::api::images::Image;
use crate::api::introspection::{PluginsRequest, PluginsResponse, ServerResponse};
use crate::api::leases::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
    ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse,
};
use crate::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
    GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, UpdateNamespaceRequest,
    UpdateNamespaceResponse,
};
use crate::api::transfer::TransferRequest;
use crate::model::{Error, Namespace, Result, image};
use crate::store::{Change, Kind, Records, Snapshot};

/// The services beside Images on `images.sock`.
#[derive(Debug, Clone)]
pub struct Alone {
    local: Local,
}

#[allow(missing_docs)]
impl Alone {
    /// Beside the Images of `local`, on its store.
    pub fn new(local: Local) -> Self {
        Self { local }
    }

    /// Its Images.
    pub fn local(&self) -> &Local {
        &self.local
    }

    pub async fn get_namespace(
        &self,
        request: GetNamespaceRequest,
    ) -> Result<GetNamespaceResponse> {
        let namespace = self.read(move |s| namespaces::get(s, &request.name)).await?;
        Ok(GetNamespaceResponse { namespace: Some(namespace).into(), ..Default::default() })
    }

    pub async fn list_namespaces(
        &self,
        _: ListNamespacesRequest,
    ) -> Result<ListNamespacesResponse> {
        let namespaces = self.read(|s| namespaces::list(s)).await?;
        Ok(ListNamespacesResponse { namespaces, ..Default::default() })
    }

    pub async fn create_namespace(
        &self,
        request: CreateNamespaceRequest,
    ) -> Result<CreateNamespaceResponse> {
        let record = required(request.namespace, "CreateNamespaceRequest.namespace")?;
        let (name, labels) = (record.name.clone(), record.labels.clone());
        let namespace = Namespace::parse(&name)?;
        let answer = record.clone();
        let work = move |change: &mut Change<'_>| namespaces::create(change, &record).map(drop);
        let created = |_: &()| Some(Happened::NamespaceCreated { name, labels });
        self.local.change(namespace, work, created).await?;
        Ok(CreateNamespaceResponse { namespace: Some(answer).into(), ..Default::default() })
    }

    pub async fn update_namespace(
        &self,
        request: UpdateNamespaceRequest,
    ) -> Result<UpdateNamespaceResponse> {
        let update = namespaces::Update::new(&request)?;
        let (namespace, name) = (update.namespace.clone(), update.namespace.to_string());
        let labels = request.namespace.into_option().unwrap_or_default().labels;
        let work = move |change: &mut Change<'_>| namespaces::update(change, &update);
        let updated = |_: &()| Some(Happened::NamespaceUpdated { name, labels });
        self.local.change(namespace, work, updated).await?;
        Ok(UpdateNamespaceResponse::new())
    }

    pub async fn delete_namespace(&self, request: DeleteNamespaceRequest) -> Result<Empty> {
        let name = request.name.clone();
        let missing = |_| {
            Error::not_found(format_args!("namespace {}", crate::model::go::quote::quote(&name)))
        };
        let namespace = Namespace::parse(&name).map_err(missing)?;
        let work =
            move |change: &mut Change<'_>| namespaces::delete(change, &request.name).map(drop);
        let deleted = |_: &()| Some(Happened::NamespaceDeleted { name });
        self.local.change(namespace, work, deleted).await?;
        Ok(Empty::new())
    }

    pub async fn create_lease(
        &self,
        call: &Call,
        request: CreateRequest,
    ) -> Result<CreateResponse> {
        let collector = Arc::clone(self.local.collector());
        let create = move |change: &mut Change<'_>, ns: &Namespace| {
            let lease = leases::create(change, ns, &request)?;
            collector.lease_written(ns, &lease.id, &lease.labels);
            Ok(lease)
        };
        let lease = self.change(call, create).await?;
        Ok(CreateResponse { lease: Some(lease).into(), ..Default::default() })
    }

    pub async fn delete_lease(&self, call: &Call, request: DeleteRequest) -> Result<Empty> {
        let sync = request.sync;
        self.change(call, move |change, ns| leases::delete(change, ns, &request.id)).await?;
        if sync {
            self.local.collect().await?;
        }
        Ok(Empty::new())
    }

    pub async fn list_leases(&self, call: &Call, request: ListRequest) -> Result<ListResponse> {
        let namespace = call.namespace()?;
        let leases = self.read(move |s| leases::list(s, &namespace, &request.filters)).await?;
        Ok(ListResponse { leases, ..Default::default() })
    }

    pub async fn add_resource(&self, call: &Call, request: AddResourceRequest) -> Result<Empty> {
        let collector = Arc::clone(self.local.collector());
        let add = move |change: &mut Change<'_>, ns: &Namespace| {
            leases::add(change, ns, &request.id, request.resource.clone())?;
            if request.resource.type_ == leases::IMAGES {
                collector.image_leased(ns, &request.resource.id);
            }
            Ok(())
        };
        self.change(call, add).await?;
        Ok(Empty::new())
    }

    pub async fn delete_resource(
        &self,
        call: &Call,
        request: DeleteResourceRequest,
    ) -> Result<Empty> {
        let remove = move |change: &mut Change<'_>, ns: &Namespace| {
            leases::remove(change, ns, &request.id, request.resource.clone())
        };
        self.change(call, remove).await?;
        Ok(Empty::new())
    }

    pub async fn list_resources(
        &self,
        call: &Call,
        request: ListResourcesRequest,
    ) -> Result<ListResourcesResponse> {
        let namespace = call.namespace()?;
        let resources = self.read(move |s| leases::resources(s, &namespace, &request.id)).await?;
        Ok(ListResourcesResponse { resources, ..Default::default() })
    }

    /// Gives the target of one name to others; a name that is there is moved, as in containerd 2.
    pub async fn transfer(&self, call: &Call, request: TransferRequest) -> Result<Empty> {
        let namespace = call.namespace()?;
        let tag = transfer::tag(&request)?;
        let (ns, source) = (namespace.clone(), tag.source.clone());
        let found = self.read(move |s| {
            let record = s.record(&ns, Kind::Image, &source)?;
            record.map(super::message::decode::<Image>).transpose()
        });
        let missing = || {
            Error::not_found(format_args!("image {}", crate::model::go::quote::quote(&tag.source)))
        };
        let target = found.await?.ok_or_else(missing)?.target;
        for image in tag.images(&target)? {
            if image.name.is_empty() {
                return Err(Error::invalid_argument("image name must not be empty"));
            }
            image::validate(&image)?;
            let name = image.name.clone();
            let (ns, limit, lease) = (namespace.clone(), usize::MAX, call.lease());
            let work = move |change: &mut Change<'_>| -> Result<(bool, Written)> {
                leases::hold_image(change, &ns, lease.as_deref(), &image)?;
                let image = image.clone();
                if change.record(&ns, Kind::Image, &image.name)?.is_some() {
                    let image = images::updated(change, &ns, image, &[])?;
                    Ok((true, images::update(change, &ns, image, None, limit)?))
                } else {
                    Ok((false, images::create(change, &ns, image, None, limit)?))
                }
            };
            let happened = |(was_there, written): &(bool, Written)| {
                let labels = written.labels.clone();
                Some(if *was_there {
                    Happened::ImageUpdated { name, labels }
                } else {
                    Happened::ImageCreated { name, labels }
                })
            };
            self.local.change(namespace.clone(), work, happened).await?;
        }
        Ok(Empty::new())
    }

    pub async fn publish(&self, call: &Call, request: PublishRequest) -> Result<Empty> {
        let namespace = call.namespace().map_err(unpublished)?;
        self.local.events().publish(&namespace, &request.topic, request.event)?;
        Ok(Empty::new())
    }

    pub async fn forward(&self, request: ForwardRequest) -> Result<Empty> {
        let envelope = required(request.envelope, "ForwardRequest.envelope")?;
        self.local.events().forward(envelope)?;
        Ok(Empty::new())
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscription> {
        let events = self.local.events().clone();
        // Regular expressions are compiled: that may take long.
        self.local.pooled(move || events.subscribe(&request.filters)).await
    }

    pub async fn server(&self, _: Empty) -> Result<ServerResponse> {
        Ok(introspection::server(self.local.store().uuid()))
    }

    pub async fn plugins(&self, request: PluginsRequest) -> Result<PluginsResponse> {
        let root = self.local.store().root().display().to_string();
        let found = move || introspection::plugins(&request.filters, &root);
        Ok(PluginsResponse { plugins: self.local.pooled(found).await?, ..Default::default() })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.local.store().clone();
        self.local.pooled(move || store.read(work)).await
    }

    /// A change in the namespace of the call that no event tells of.
    async fn change<T, F>(&self, call: &Call, mut work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>, &Namespace) -> Result<T> + Send + 'static,
    {
        let namespace = call.namespace()?;
        let ns = namespace.clone();
        let work = move |change: &mut Change<'_>| work(change, &ns);
        self.local.change(namespace, work, |_| None).await
    }
}

/// The error of a call's namespace, as Publish tells it.
fn unpublished(error: Error) -> Error {
    let told = |why: String| format!("failed publishing event: {why}");
    match error {
        Error::FailedPrecondition(why) => Error::FailedPrecondition(told(why)),
        Error::InvalidArgument(why) => Error::InvalidArgument(told(why)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_tells_what_it_could_not_do() {
        let told = |header| unpublished(Namespace::required(header).unwrap_err());
        assert_eq!(
            told(None),
            Error::FailedPrecondition(
                "failed publishing event: namespace is required: failed precondition".into()
            )
        );
        assert!(matches!(told(Some("-")), Error::InvalidArgument(m)
            if m.starts_with("failed publishing event: namespace validation: identifier")));
    }
}
