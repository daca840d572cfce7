//! The operations of Leases inside a transaction, with the semantics of containerd
//! (`core/metadata/leases.go`, 2.3).
//!
//! A client takes a lease around a change: it is stored, listed, and expires. It keeps the images that it
//! names from being collected. There is no content here, so it keeps none alive.

use go_compat::quote::quote;
use protobuf::MessageField;

use super::namespaces;
use super::reply::{BuildOutcome, ReplyBuilder};
use crate::api::images::Image;
use crate::api::leases::{CreateRequest, Lease, Resource, StoredLease};
use crate::clock;
use crate::limits::memory::ReplyBuffer;
use crate::model::filter::{Fields, Filter};
use crate::model::{Error, Namespace, Result, digest, image, label};
use crate::service::cancel::Cancel;
use crate::service::codec;
use crate::service::codec::{decode, encode, required};
use crate::service::gc;
use crate::store::{Kind, Records, Transaction};

/// The most bytes of a stored lease with its resources, some 3,000 blobs. It is one record that is
/// rewritten for each added resource, so it is kept small.
const MAX_LEASE_BYTES: usize = 256 << 10;
/// The type of a resource that is an image.
pub(crate) const IMAGES: &str = "images";

/// Creates a lease. Without an id it gets a random one.
pub(crate) fn create(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    request: CreateRequest,
) -> Result<Lease> {
    let CreateRequest { id, mut labels, .. } = request;
    let id = if id.is_empty() { random_id() } else { id };
    if change.record(namespace, Kind::Lease, &id)?.is_some() {
        return Err(Error::already_exists(format_args!("lease {}", quote(&id))));
    }
    label::drop_empty(&mut labels, "lease.Labels")?;
    let created_at = MessageField::some(clock::record_time());
    let lease = Lease { id: id.clone(), created_at, labels, ..Lease::default() };
    let stored =
        StoredLease { id, lease: MessageField::some(lease.clone()), ..StoredLease::default() };
    namespaces::ensure(change, namespace)?;
    put(change, namespace, &stored)?;
    Ok(lease)
}

/// A random id in containerd's form: the nanoseconds of the second, and three random bytes in base64.
fn random_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let digits = [0, 6, 12, 18].map(|before| (random << before >> 58) as usize);
    let base64 = digits.iter().filter_map(|digit| DIGITS.get(*digit)).map(|c| char::from(*c));
    format!("{}-{}", clock::record_time().nanos, base64.collect::<String>())
}

/// Removes a lease.
pub(crate) fn delete(change: &mut Transaction<'_>, namespace: &Namespace, id: &str) -> Result<()> {
    if change.delete(namespace, Kind::Lease, id)? { Ok(()) } else { Err(not_found(id)) }
}

/// The filter of a List, compiled.
pub(crate) fn filter(filters: &[String], cancel: &mut Cancel) -> Result<Filter> {
    cancel.compile(filters, |filters| {
        Filter::parse(filters).map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))
    })
}

/// Builds the `ListResponse` of the leases that match the filter, in byte order of ids, within the buffer
/// and until it is cancelled.
pub(crate) fn list(
    records: &impl Records,
    namespace: &Namespace,
    filter: &Filter,
    buffer: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    let mut step = || cancel.check().and_then(|()| records.check_held());
    let mut reply = ReplyBuilder::new(buffer);
    for entry in records.scan(namespace, Kind::Lease)? {
        step()?;
        let lease = decode::<StoredLease>(entry?.message()?)?.lease.unwrap_or_default();
        if filter.try_matches(&lease, &mut step)? {
            reply.add(&encode(&lease)?);
        }
    }
    Ok(reply.built())
}

/// Adds a resource to a lease. Adding it again changes nothing.
pub(crate) fn add(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    id: &str,
    resource: MessageField<Resource>,
) -> Result<()> {
    let resource = required(resource, "AddResourceRequest.resource")?;
    let mut stored = stored(change, namespace, id)?;
    check(&resource)?;
    if resource.type_ == "snapshots/" {
        return Err(invalid_snapshots(&resource.type_));
    }
    if resource.id.is_empty() {
        return Err(Error::invalid_argument("AddResourceRequest.resource.id must be set"));
    }
    if !stored.resources.contains(&resource) {
        stored.resources.push(resource);
        put(change, namespace, &stored)?;
    }
    Ok(())
}

/// Removes a resource from a lease. A resource that the lease does not name is no error.
pub(crate) fn remove(
    change: &mut Transaction<'_>,
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
        // The lease became smaller, so no bound applies: this empties a lease that an earlier version let
        // grow too large.
        put_record(change, namespace, &stored, &encode(&stored)?)?;
    }
    Ok(())
}

/// The lease of the call, if the image that the call writes expires. The lease must exist. `image` has the
/// labels of the call, including those without a value, which are not stored. As in containerd
/// (`core/metadata/images.go`, 2.1).
pub(crate) fn holding<'l>(
    records: &impl Records,
    namespace: &Namespace,
    lease: Option<&'l str>,
    image: &Image,
) -> Result<Option<&'l str>> {
    let lease = lease.filter(|_| image.labels.contains_key(gc::EXPIRE));
    if let Some(id) = lease
        && records.record(namespace, Kind::Lease, id)?.is_none()
    {
        return Err(Error::not_found("lease does not exist"));
    }
    Ok(lease)
}

/// Adds an image to a lease: the image is not collected as long as the lease exists.
pub(crate) fn hold_image(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    id: &str,
    name: &str,
) -> Result<()> {
    let mut stored = stored(change, namespace, id)?;
    let resource = image_resource(name);
    if !stored.resources.contains(&resource) {
        stored.resources.push(resource);
        put(change, namespace, &stored)?;
    }
    Ok(())
}

/// Removes the image that a call removes from the lease of the call.
pub(crate) fn release_image(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    name: &str,
) -> Result<()> {
    let Some(id) = lease else { return Ok(()) };
    let Some(stored) = change.record(namespace, Kind::Lease, id)? else { return Ok(()) };
    let mut stored: StoredLease = decode(stored)?;
    let (resource, before) = (image_resource(name), stored.resources.len());
    stored.resources.retain(|known| *known != resource);
    if stored.resources.len() < before {
        put_record(change, namespace, &stored, &encode(&stored)?)?;
    }
    Ok(())
}

fn image_resource(name: &str) -> Resource {
    Resource { id: name.to_owned(), type_: IMAGES.to_owned(), ..Resource::default() }
}

/// Builds the `ListResourcesResponse` of a lease, in order of types and ids, within the buffer.
pub(crate) fn resources(
    records: &impl Records,
    namespace: &Namespace,
    id: &str,
    buffer: ReplyBuffer<'_>,
) -> Result<BuildOutcome> {
    let mut resources = stored(records, namespace, id)?.resources;
    resources.sort_by(|a, b| (&a.type_, &a.id).cmp(&(&b.type_, &b.id)));
    let mut reply = ReplyBuilder::new(buffer);
    for resource in &resources {
        reply.add(&encode(resource)?);
    }
    Ok(reply.built())
}

fn stored(records: &impl Records, namespace: &Namespace, id: &str) -> Result<StoredLease> {
    decode(records.record(namespace, Kind::Lease, id)?.ok_or_else(|| not_found(id))?)
}

/// Stores a lease that has grown.
fn put(change: &mut Transaction<'_>, namespace: &Namespace, lease: &StoredLease) -> Result<()> {
    let record = encode(lease)?;
    let what = || format!("lease {}, with its labels and resources,", quote(&lease.id));
    codec::check_record::<StoredLease>(&record, MAX_LEASE_BYTES, what)?;
    put_record(change, namespace, lease, &record)
}

fn put_record(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: &StoredLease,
    record: &[u8],
) -> Result<()> {
    let expires = gc::expires(&lease.lease.labels);
    change.put(namespace, Kind::Lease, &lease.id, record, expires)
}

fn not_found(id: &str) -> Error {
    Error::not_found(format_args!("lease {}", quote(id)))
}

/// Refuses the types of resources that containerd does not know.
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
        ("snapshots", _) => Err(invalid_snapshots(kind)),
        _ => Err(Error::Unimplemented(format!(
            "resource type {kind} not supported yet: not implemented"
        ))),
    }
}

fn invalid_snapshots(kind: &str) -> Error {
    Error::invalid_argument(format_args!("invalid snapshot resource type {kind}"))
}

impl Fields for Lease {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        let (first, rest) = path.split_first()?;
        match first.as_slice() {
            b"id" => image::non_empty(&self.id),
            b"labels" => image::entry(&self.labels, rest),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::leases::ListResourcesResponse;
    use crate::store::Store;

    #[test]
    fn a_lease_with_its_resources_is_bounded_and_can_be_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ns = Namespace::parse("n").unwrap();
        let run = |work: fn(&mut Transaction<'_>, &Namespace, usize) -> Result<()>, size: usize| {
            let ns = ns.clone();
            store.writer().write_blocking(move |c| work(c, &ns, size))
        };
        let make = |c: &mut Transaction<'_>, ns: &Namespace, size| {
            let labels = [("k".to_owned(), "v".repeat(size))].into();
            let request = CreateRequest { id: format!("l{size}"), labels, ..Default::default() };
            create(c, ns, request).map(drop)
        };
        let resource = |size: usize| {
            let (type_, id) = ("images".into(), "x".repeat(size));
            MessageField::some(Resource { type_, id, ..Resource::default() })
        };
        let too_large = |done: Result<()>| {
            let error = done.unwrap_err();
            assert!(
                matches!(&error, Error::ResourceExhausted(m) if m.contains("with its labels and resources, would be a record of")
                    && m.contains("at most 262144 are stored")),
                "{error:?}"
            );
        };
        too_large(run(make, MAX_LEASE_BYTES));
        run(make, 10).unwrap();
        let add =
            move |c: &mut Transaction<'_>, ns: &Namespace, size| add(c, ns, "l10", resource(size));
        let ours = ns.clone();
        let half = MAX_LEASE_BYTES / 2;
        let write = |size| {
            let (ns, add) = (ours.clone(), add);
            store.writer().write_blocking(move |c| add(c, &ns, size))
        };
        write(half).unwrap();
        too_large(write(half + 1));
        let ns = ours.clone();
        store.writer().write_blocking(move |c| remove(c, &ns, "l10", resource(half))).unwrap();
        write(half + 1).unwrap();
    }

    #[test]
    fn an_id_of_ours_has_the_form_of_containerds() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let id = random_id();
            let (nanos, random) = id.split_once('-').unwrap();
            assert!(nanos.parse::<u32>().unwrap() < 1_000_000_000, "{id}");
            assert_eq!(nanos.parse::<u32>().unwrap().to_string(), nanos);
            assert_eq!(random.len(), 4, "{id}");
            assert!(
                random.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
                "{id}"
            );
            seen.insert(random.to_owned());
        }
        assert!(seen.len() > 900, "{}", seen.len());
    }

    #[test]
    fn a_resource_is_validated_more_strictly_when_it_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ns = Namespace::parse("n").unwrap();
        let change =
            |work: fn(&mut Transaction<'_>, &Namespace, MessageField<Resource>) -> Result<()>,
             type_: &str,
             id: &str| {
                let resource =
                    Resource { type_: type_.into(), id: id.into(), ..Resource::default() };
                let ns = ns.clone();
                store.writer().write_blocking(move |c| work(c, &ns, Some(resource.clone()).into()))
            };
        change(
            |c, ns, _| {
                create(c, ns, CreateRequest { id: "l".into(), ..Default::default() }).map(drop)
            },
            "",
            "",
        )
        .unwrap();
        for (type_, id, why) in [
            ("images", "", "AddResourceRequest.resource.id must be set: invalid argument"),
            ("snapshots/", "a", "invalid snapshot resource type snapshots/: invalid argument"),
        ] {
            let error = change(|c, ns, r| add(c, ns, "l", r), type_, id).unwrap_err();
            assert_eq!(error, Error::InvalidArgument(why.into()));
            change(|c, ns, r| remove(c, ns, "l", r), type_, id).unwrap();
        }
        for (type_, id) in [("snapshots/x", "b"), ("images", "c"), ("images", "a"), ("images", "c")]
        {
            change(|c, ns, r| add(c, ns, "l", r), type_, id).unwrap();
        }
        let built =
            store.read(|s| resources(s, &ns, "l", ReplyBuffer::fixed(usize::MAX, None))).unwrap();
        let listed: ListResourcesResponse = decode(&built.reply.unwrap().message).unwrap();
        let listed: Vec<_> =
            listed.resources.iter().map(|r| format!("{} {}", r.type_, r.id)).collect();
        assert_eq!(listed, ["images a", "images c", "snapshots/x b"]);
    }
}
