//! Decodes a stored record and checks that it belongs to its key.

use crate::store::schema::keys;
use go_compat::quote::quote;
use go_compat::text::lossy;
use protobuf::Message;

use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::api::namespace::Namespace as NamespaceRecord;
use crate::model::Namespace;
use crate::service::codec::decode;
use crate::service::gc;
use crate::store::Kind;

/// A decoded record that belongs to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Namespace of the record.
    pub(crate) namespace: Namespace,
    /// Kind and name; `None` for the record of the namespace itself.
    pub(crate) named: Option<(Kind, String)>,
    /// Time from which garbage collection may remove the record.
    pub(crate) expires: Option<String>,
    /// Unix time of the last change, as seconds and nanoseconds; zeros if unknown.
    pub(crate) updated: (i64, i32),
}

/// Decodes the `message` stored under `key`.
///
/// # Errors
/// A sentence if the message does not decode or belongs to another key.
pub(crate) fn read(key: &[u8], message: &[u8]) -> Result<Record, String> {
    let (namespace, kind) = keys::parse_key(key).ok_or("the key is not one of this schema")?;
    let mut record = Record { namespace, named: None, expires: None, updated: (0, 0) };
    let name = match kind {
        None => {
            let found: NamespaceRecord = decode_as(message)?;
            return if found.name == record.namespace.as_str() {
                Ok(record)
            } else {
                Err(format!("it is the record of another namespace, {}", quote(&found.name)))
            };
        }
        Some(Kind::Image) => {
            let image: Image = decode_as(message)?;
            record.expires = gc::expires(&image.labels).map(str::to_owned);
            record.updated = (image.updated_at.seconds, image.updated_at.nanos);
            image.name
        }
        Some(Kind::Lease) => {
            let lease: StoredLease = decode_as(message)?;
            record.expires = gc::expires(&lease.lease.labels).map(str::to_owned);
            lease.id
        }
    };
    let kind = kind.unwrap_or(Kind::Image);
    if keys::key(&record.namespace, kind, &name) != key {
        return Err(format!("it is the record of another name, {}", quote(&name)));
    }
    record.named = Some((kind, name));
    Ok(record)
}

fn decode_as<M: Message>(message: &[u8]) -> Result<M, String> {
    decode(message).map_err(|e| e.message().to_owned())
}

/// Describes a record in a sentence by its key alone: `image "a:1" in namespace n`.
pub(crate) fn describe_key(key: &[u8]) -> String {
    let name = |namespace: &Namespace, kind| {
        let prefix = keys::prefix(namespace, kind).len();
        let name = key.get(prefix..).unwrap_or_default();
        let head = name.split(|b| *b == keys::LONG_MARKER).next().unwrap_or_default();
        let cut = if head.len() < name.len() { "…" } else { "" };
        format!("{} {}{cut} in namespace {namespace}", kind.noun(), quote(lossy(head).as_ref()))
    };
    match keys::parse_key(key) {
        Some((namespace, None)) => format!("namespace {namespace}"),
        Some((namespace, Some(kind))) => name(&namespace, kind),
        None => format!("key {}", quote(lossy(key).as_ref())),
    }
}
