//! What a stored record is, and whether it is what its key says.

use crate::store::schema::keys;
use protobuf::Message;

use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::api::namespace::Namespace as NamespaceRecord;
use crate::model::Namespace;
use crate::model::go::quote::quote;
use crate::model::go::text::lossy;
use crate::service::codec::decode;
use crate::service::gc;
use crate::store::Kind;

/// A record that is what its key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its kind and its name; nothing for the namespace itself.
    pub named: Option<(Kind, String)>,
    /// When it may be collected.
    pub expires: Option<String>,
    /// When it was last changed, in seconds and nanoseconds; zeros where that is not known.
    pub updated: (i64, i32),
}

/// Reads the `message` under `key`, or says what is wrong.
pub fn read(key: &[u8], message: &[u8]) -> Result<Record, String> {
    let (namespace, kind) = keys::parse_key(key).ok_or("its key is not one of ours")?;
    let mut record = Record { namespace, named: None, expires: None, updated: (0, 0) };
    let name = match kind {
        None => {
            let found: NamespaceRecord = part(message)?;
            return if found.name == record.namespace.as_str() {
                Ok(record)
            } else {
                Err(format!("it is the record of another namespace, {}", quote(&found.name)))
            };
        }
        Some(Kind::Image) => {
            let image: Image = part(message)?;
            record.expires = gc::expires(&image.labels).map(str::to_owned);
            record.updated = (image.updated_at.seconds, image.updated_at.nanos);
            image.name
        }
        Some(Kind::Lease) => {
            let lease: StoredLease = part(message)?;
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

fn part<M: Message>(message: &[u8]) -> Result<M, String> {
    decode(message).map_err(|e| e.message().to_owned())
}

/// How a record is called in sentences, by its key alone.
pub fn describe_key(key: &[u8]) -> String {
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
