//! The operations of Leases inside a transaction, with the semantics of containerd
//! (`core/metadata/leases.go`, 2.3).
//!
//! A lease here is what clients take around a change: it is stored, listed, and expires. It keeps
//! an image that it names from being collected. There is no content here, so it keeps none alive.

use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use super::message::{decode, encode, required};
use super::{collector, namespaces};
use crate::api::leases::{CreateRequest, Lease, Resource, StoredLease};
use crate::model::filter::{Fields, Filter};
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, digest, image, label};
use crate::store::{Change, Kind, Records};

/// Takes a lease; without an id it gets a random one.
pub fn create(
    change: &mut Change<'_>,
    namespace: &Namespace,
    request: &CreateRequest,
) -> Result<Lease> {
    let id = match request.id.as_str() {
        "" => uuid::Uuid::new_v4().to_string(),
        id => id.to_owned(),
    };
    if change.record(namespace, Kind::Lease, &id)?.is_some() {
        return Err(Error::already_exists(format_args!("lease {}", quote(&id))));
    }
    let mut labels = request.labels.clone();
    label::drop_empty(&mut labels, "lease.Labels")?;
    let created_at = MessageField::some(Timestamp::now());
    let lease = Lease { id: id.clone(), created_at, labels, ..Lease::default() };
    let stored =
        StoredLease { id, lease: MessageField::some(lease.clone()), ..StoredLease::default() };
    namespaces::ensure(change, namespace)?;
    put(change, namespace, &stored)?;
    Ok(lease)
}

/// Gives a lease up.
pub fn delete(change: &mut Change<'_>, namespace: &Namespace, id: &str) -> Result<()> {
    if change.delete(namespace, Kind::Lease, id)? { Ok(()) } else { Err(not_found(id)) }
}

/// The leases that match any of the filters, in byte order of ids.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    filters: &[String],
) -> Result<Vec<Lease>> {
    let filter = Filter::parse_all(filters)
        .map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))?;
    let mut found = Vec::new();
    for entry in records.walk(namespace, Kind::Lease)? {
        let lease = decode::<StoredLease>(entry?.message()?)?.lease.unwrap_or_default();
        if filter.matches(&lease) {
            found.push(lease);
        }
    }
    Ok(found)
}

/// Has a lease name a resource; one that it names already is named once.
pub fn add(
    change: &mut Change<'_>,
    namespace: &Namespace,
    id: &str,
    resource: MessageField<Resource>,
) -> Result<()> {
    let resource = required(resource, "AddResourceRequest.resource")?;
    let mut stored = stored(change, namespace, id)?;
    check(&resource)?;
    if !stored.resources.contains(&resource) {
        stored.resources.push(resource);
        put(change, namespace, &stored)?;
    }
    Ok(())
}

/// Has a lease no longer name a resource; one that it does not name is no error.
pub fn remove(
    change: &mut Change<'_>,
    namespace: &Namespace,
    id: &str,
    resource: MessageField<Resource>,
) -> Result<()> {
    let resource = required(resource, "DeleteResourceRequest.resource")?;
    let mut stored = stored(change, namespace, id)?;
    check(&resource)?;
    let before = stored.resources.len();
    stored.resources.retain(|known| *known != resource);
    if stored.resources.len() < before {
        put(change, namespace, &stored)?;
    }
    Ok(())
}

/// What a lease names, in order of types and ids.
pub fn resources(records: &impl Records, namespace: &Namespace, id: &str) -> Result<Vec<Resource>> {
    let mut resources = stored(records, namespace, id)?.resources;
    resources.sort_by(|a, b| (&a.type_, &a.id).cmp(&(&b.type_, &b.id)));
    Ok(resources)
}

fn stored(records: &impl Records, namespace: &Namespace, id: &str) -> Result<StoredLease> {
    decode(records.record(namespace, Kind::Lease, id)?.ok_or_else(|| not_found(id))?)
}

fn put(change: &mut Change<'_>, namespace: &Namespace, lease: &StoredLease) -> Result<()> {
    let expires = collector::expires(&lease.lease.labels);
    change.put(namespace, Kind::Lease, &lease.id, &encode(lease)?, expires)
}

fn not_found(id: &str) -> Error {
    Error::not_found(format_args!("lease {}", quote(id)))
}

/// Whether containerd knows such a resource.
fn check(resource: &Resource) -> Result<()> {
    let (id, kind) = (&resource.id, &resource.type_);
    let (first, rest) = kind.split_once('/').map_or((kind.as_str(), None), |(a, b)| (a, Some(b)));
    match (first, rest) {
        ("content", None) => digest::validate(id).map_err(|e| {
            Error::invalid_argument(format_args!("invalid content resource id {id}: {e}"))
        }),
        ("images" | "ingests", None) => Ok(()),
        ("content" | "images" | "ingests", Some(_)) => {
            Err(Error::invalid_argument(format_args!("invalid resource type {kind}")))
        }
        ("snapshots", Some(rest)) if !rest.contains('/') => Ok(()),
        ("snapshots", _) => {
            Err(Error::invalid_argument(format_args!("invalid snapshot resource type {kind}")))
        }
        _ => Err(Error::Unimplemented(format!(
            "resource type {kind} not supported yet: not implemented"
        ))),
    }
}

impl Fields for Lease {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        let (first, rest) = path.split_first()?;
        match first.as_slice() {
            b"id" => image::present(&self.id),
            b"labels" => image::entry(&self.labels, rest),
            _ => None,
        }
    }
}
