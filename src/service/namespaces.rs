//! The operations of Namespaces inside a transaction, with the semantics of containerd
//! (`core/metadata/namespaces.go`, `plugins/services/namespaces`).

use crate::api::namespace::{Namespace as Record, UpdateNamespaceRequest};
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, label};
use crate::service::events::Labels;
use crate::service::message::{decode, encode, required};
use crate::store::{Change, Kind, Records};

/// The namespace of that name. One that is not there is one without labels, as in containerd.
pub fn get(records: &impl Records, name: &str) -> Result<Record> {
    let labels = match Namespace::parse(name) {
        Ok(namespace) => labels(records, &namespace)?.unwrap_or_default(),
        Err(_) => Labels::new(),
    };
    Ok(Record { name: name.to_owned(), labels, ..Record::default() })
}

/// All namespaces, in byte order of names.
pub fn list(records: &impl Records) -> Result<Vec<Record>> {
    let described = |namespace: &Namespace| get(records, namespace.as_str());
    records.namespaces()?.iter().map(described).collect()
}

/// Makes a namespace.
pub fn create(change: &mut Change<'_>, record: &Record) -> Result<Namespace> {
    let namespace = Namespace::parse(&record.name)?;
    validate(&record.labels)?;
    if change.namespace(&namespace)?.is_some() {
        return Err(Error::already_exists(format_args!("namespace {}", quote(&record.name))));
    }
    put(change, &namespace, record.labels.clone())?;
    Ok(namespace)
}

/// Replaces the labels of a namespace, or, with a mask, those that it names. A namespace that is
/// not there is made, as in containerd.
pub fn update(change: &mut Change<'_>, request: &UpdateNamespaceRequest) -> Result<Namespace> {
    let record = required(request.namespace.clone(), "UpdateNamespaceRequest.namespace")?;
    let namespace = Namespace::parse(&record.name)?;
    let mut new = record.labels;
    if !request.update_mask.paths.is_empty() {
        let mut changed = labels(change, &namespace)?.unwrap_or_default();
        for path in &request.update_mask.paths {
            let Some(key) = path.strip_prefix("labels.") else {
                return Err(Error::InvalidArgument(format!("cannot update {} field", quote(path))));
            };
            let value = new.get(key).cloned().unwrap_or_default();
            changed.insert(key.to_owned(), value);
        }
        new = changed;
    }
    validate(&new)?;
    put(change, &namespace, new)?;
    Ok(namespace)
}

/// Removes a namespace that holds no images, with its leases.
pub fn delete(change: &mut Change<'_>, name: &str) -> Result<Namespace> {
    let missing = || Error::not_found(format_args!("namespace {}", quote(name)));
    let namespace = Namespace::parse(name).map_err(|_| missing())?;
    if change.walk(&namespace, Kind::Image)?.next().transpose()?.is_some() {
        return Err(Error::failed_precondition(format_args!(
            "namespace {} must be empty, but it still has images",
            quote(name)
        )));
    }
    if change.delete_namespace(&namespace)? { Ok(namespace) } else { Err(missing()) }
}

/// Makes the namespace if it is not there: the first record in it does.
pub fn ensure(change: &mut Change<'_>, namespace: &Namespace) -> Result<()> {
    match change.namespace(namespace)? {
        Some(_) => Ok(()),
        None => put(change, namespace, Labels::new()),
    }
}

fn labels(records: &impl Records, namespace: &Namespace) -> Result<Option<Labels>> {
    let record = records.namespace(namespace)?.map(decode::<Record>).transpose()?;
    Ok(record.map(|record| record.labels))
}

fn validate(labels: &Labels) -> Result<()> {
    label::validate_sizes(labels)
        .map_err(|e| Error::InvalidArgument(format!("namespace.Labels: {e}")))
}

fn put(change: &mut Change<'_>, namespace: &Namespace, mut labels: Labels) -> Result<()> {
    label::drop_empty(&mut labels, "namespace.Labels")?;
    let record = Record { name: namespace.to_string(), labels, ..Record::default() };
    change.put_namespace(namespace, &encode(&record)?)
}
