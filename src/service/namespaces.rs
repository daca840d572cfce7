//! The operations of Namespaces inside a transaction, with the semantics of containerd
//! (`core/metadata/namespaces.go`, `plugins/services/namespaces`).

use go_compat::quote::quote;

use crate::api::namespace::{Namespace as Record, UpdateNamespaceRequest};
use crate::limits::memory::ReplyBuffer;
use crate::model::{Error, Namespace, Result, label};
use crate::service::cancel::Cancel;
use crate::service::codec;
use crate::service::codec::{decode, encode, required};
use crate::service::events::Labels;
use crate::service::reply::{BuildOutcome, ReplyBuilder};
use crate::store::{Kind, Records, Transaction};

/// The name of the labels in errors.
const LABELS: &str = "namespace.Labels";

/// The most bytes of the record of a namespace, which is its name and its labels: updates of single
/// labels add up, and a reply must be able to carry it.
const MAX_NAMESPACE_BYTES: usize = 256 << 10;

/// Builds the `GetNamespaceResponse` of a namespace, within the buffer. A missing namespace is answered
/// like one without labels, as in containerd.
pub(crate) fn get(
    records: &impl Records,
    name: &str,
    buffer: ReplyBuffer<'_>,
) -> Result<BuildOutcome> {
    let namespace = Namespace::parse(name);
    let stored = namespace.as_ref().map_or(Ok(None), |namespace| records.namespace(namespace))?;
    let mut reply = ReplyBuilder::new(buffer);
    match stored {
        Some(record) => reply.add(record),
        None => reply.add(&encode(&Record { name: name.to_owned(), ..Record::default() })?),
    }
    Ok(reply.built())
}

/// Builds the `ListNamespacesResponse` of all namespaces, in byte order of names, within the buffer and
/// until it is cancelled.
pub(crate) fn list(
    records: &impl Records,
    buffer: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    let mut reply = ReplyBuilder::new(buffer);
    for namespace in records.walk_namespaces() {
        cancel.check()?;
        if let Some(record) = records.namespace(&namespace?)? {
            reply.add(record);
        }
    }
    Ok(reply.built())
}

/// Creates a namespace.
pub(crate) fn create(change: &mut Transaction<'_>, record: &Record) -> Result<Namespace> {
    let namespace = Namespace::parse(&record.name)?;
    label::validate_sizes(&record.labels)
        .map_err(|e| Error::InvalidArgument(format!("{LABELS}: {e}")))?;
    if change.namespace(&namespace)?.is_some() {
        return Err(Error::already_exists(format_args!("namespace {}", quote(&record.name))));
    }
    // Unlike an image, a namespace refuses an empty key even without a value.
    if let Some(value) = record.labels.get("") {
        return Err(label::empty_key(LABELS, value));
    }
    put(change, &namespace, record.labels.clone())?;
    Ok(namespace)
}

/// A checked update of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// Whether the update removes the labels that it does not name.
    all: bool,
    /// The new labels. An empty value removes the label.
    labels: Labels,
}

impl Update {
    /// Checks the paths of the mask in order, and the name last, as containerd does: it checks the name when
    /// it publishes the event.
    pub(crate) fn new(request: &UpdateNamespaceRequest) -> Result<Self> {
        let record = required(request.namespace.clone(), "UpdateNamespaceRequest.namespace")?;
        let paths = &request.update_mask.paths;
        let mut labels = Labels::new();
        if paths.is_empty() {
            labels = record.labels.clone();
            check_set(&labels)?;
        }
        for path in paths {
            let Some(key) = path.strip_prefix("labels.") else {
                return Err(Error::InvalidArgument(format!("cannot update {} field", quote(path))));
            };
            let value = record.labels.get(key).cloned().unwrap_or_default();
            let named = Labels::from([(key.to_owned(), value)]);
            check_set(&named)?;
            labels.extend(named);
        }
        Ok(Self { namespace: Namespace::parse(&record.name)?, all: paths.is_empty(), labels })
    }
}

/// Checks the labels that an update sets. containerd's errors for them have no code.
fn check_set(labels: &Labels) -> Result<()> {
    label::validate_sizes(labels).map_err(|e| Error::Unknown(format!("{LABELS}: {e}")))?;
    match labels.get("") {
        Some(value) if !value.is_empty() => Err(label::empty_key(LABELS, value)),
        _ => Ok(()),
    }
}

/// Replaces the labels of a namespace, or those that the mask names. A missing namespace is created if
/// there are any labels, as in containerd.
pub(crate) fn update(change: &mut Transaction<'_>, update: &Update) -> Result<()> {
    let stored = labels(change, &update.namespace)?;
    if stored.is_none() && update.labels.is_empty() {
        return Ok(());
    }
    let mut new = if update.all { Labels::new() } else { stored.unwrap_or_default() };
    new.extend(update.labels.clone());
    put(change, &update.namespace, new)
}

/// Removes a namespace without images, and its leases.
pub(crate) fn delete(change: &mut Transaction<'_>, name: &str) -> Result<Namespace> {
    let missing = || Error::not_found(format_args!("namespace {}", quote(name)));
    let namespace = Namespace::parse(name).map_err(|_| missing())?;
    if change.scan(&namespace, Kind::Image)?.next().transpose()?.is_some() {
        return Err(Error::failed_precondition(format_args!(
            "namespace {} must be empty, but it still has images",
            quote(name)
        )));
    }
    if change.delete_namespace(&namespace)? { Ok(namespace) } else { Err(missing()) }
}

/// Creates the namespace of a new record if it is missing.
pub(crate) fn ensure(change: &mut Transaction<'_>, namespace: &Namespace) -> Result<()> {
    match change.namespace(namespace)? {
        Some(_) => Ok(()),
        None => put(change, namespace, Labels::new()),
    }
}

fn labels(records: &impl Records, namespace: &Namespace) -> Result<Option<Labels>> {
    let record = records.namespace(namespace)?.map(decode::<Record>).transpose()?;
    Ok(record.map(|record| record.labels))
}

fn put(change: &mut Transaction<'_>, namespace: &Namespace, mut labels: Labels) -> Result<()> {
    label::drop_empty(&mut labels, LABELS)?;
    let record = encode(&Record { name: namespace.to_string(), labels, ..Record::default() })?;
    let what = || format!("namespace {namespace}, with its labels,");
    codec::check_record::<Record>(&record, MAX_NAMESPACE_BYTES, what)?;
    change.put_namespace(namespace, &record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::namespace::ListNamespacesResponse;
    use crate::store::{Snapshot, Store};
    use protobuf::MessageField;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn request(name: &str, pairs: &[(&str, &str)], paths: &[&str]) -> UpdateNamespaceRequest {
        let record = Record { name: name.into(), labels: labels(pairs), ..Record::default() };
        let mut request = UpdateNamespaceRequest {
            namespace: MessageField::some(record),
            ..UpdateNamespaceRequest::default()
        };
        request.update_mask.mut_or_insert_default().paths =
            paths.iter().map(|path| path.to_string()).collect();
        request
    }

    fn refused(name: &str, pairs: &[(&str, &str)], paths: &[&str]) -> Error {
        Update::new(&request(name, pairs, paths)).unwrap_err()
    }

    #[test]
    fn an_update_of_a_missing_namespace_creates_it_only_to_set_labels() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let apply = |pairs: &[(&str, &str)], paths: &[&str]| {
            let checked = Update::new(&request("n", pairs, paths)).unwrap();
            store.writer().write_blocking(move |change| update(change, &checked)).unwrap();
            let all =
                |s: &Snapshot<'_>| list(s, ReplyBuffer::fixed(usize::MAX, None), Cancel::never());
            let built = store.read(all).unwrap();
            let found: ListNamespacesResponse = decode(&built.reply.unwrap().message).unwrap();
            found.namespaces.into_iter().map(|n| n.labels).collect::<Vec<_>>()
        };
        assert_eq!(apply(&[], &[]), []);
        // Also one that goes is set.
        assert_eq!(apply(&[], &["labels.a"]), [labels(&[])]);
        assert_eq!(
            apply(&[("a", "1"), ("b", "2"), ("", "")], &[]),
            [labels(&[("a", "1"), ("b", "2")])]
        );
        assert_eq!(apply(&[("b", "3")], &["labels.b", "labels.a"]), [labels(&[("b", "3")])]);
        assert_eq!(apply(&[("c", "4")], &[]), [labels(&[("c", "4")])]);
    }

    #[test]
    fn an_update_is_checked_in_the_order_of_its_mask_and_its_name_last() {
        let long = "v".repeat(4096);
        let sizes = refused("n", &[("a", &long)], &["labels.a", "nope"]);
        assert!(
            matches!(&sizes, Error::Unknown(m) if m.starts_with("namespace.Labels: label key")),
            "{sizes:?}"
        );
        assert_eq!(sizes, refused("n", &[("a", &long)], &[]));
        let path = Error::InvalidArgument("cannot update \"nope\" field".into());
        assert_eq!(refused("-", &[("a", &long)], &["nope", "labels.a"]), path);
        assert_eq!(refused("-", &[("a", &long)], &["labels.b", "nope"]), path);
        let key = refused("-", &[("", "v")], &["labels."]);
        assert!(key.message().contains("the key of value \"v\" is empty"), "{key}");
        let name = refused("-", &[("a", &long)], &["labels.b"]);
        assert!(name.message().starts_with("identifier \"-\" must match"), "{name}");
    }

    #[test]
    fn a_namespace_is_not_made_with_an_empty_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let make = |pairs: &[(&str, &str)]| {
            let record = Record { name: "n".into(), labels: labels(pairs), ..Record::default() };
            store.writer().write_blocking(move |change| create(change, &record)).map(drop)
        };
        let error = make(&[("", "")]).unwrap_err();
        assert!(error.message().contains("the key of value \"\" is empty"), "{error}");
        make(&[("a", "")]).unwrap();
        // The key is looked at when labels are written, after the namespace is found.
        assert!(matches!(make(&[("", "")]), Err(Error::AlreadyExists(_))));
    }

    #[test]
    fn the_labels_of_a_namespace_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let add = |number: usize| {
            let (key, value) = (format!("k{number}"), "v".repeat(4000));
            let path = format!("labels.{key}");
            let checked = Update::new(&request("n", &[(&key, &value)], &[&path])).unwrap();
            store.writer().write_blocking(move |change| update(change, &checked))
        };
        (0..65).for_each(|number| add(number).unwrap());
        let error = add(65).unwrap_err();
        assert!(
            matches!(&error, Error::ResourceExhausted(m) if m.contains("namespace n, with its labels, would be a record of")),
            "{error:?}"
        );
        add(0).unwrap();
    }
}
