//! `lmdb-images import`: copies image records and namespaces into a store, from a running containerd
//! ([`live`]) or from containerd's bolt file ([`bolt`]). The daemon must be stopped.
//!
//! The command keeps the times of records, and keeps records that only the store has. It does not
//! rewrite a record that the store already has byte for byte, so a second run changes nothing.

pub mod bolt;
pub mod containerd_scan;
pub mod containerd_schema;
pub mod live;

use std::path::Path;

use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::model::{Error, Namespace, Result};
use crate::service::codec::encode;
use crate::service::gc;
use crate::service::images;
use crate::store::{Cause, Kind, Origin, Records, Store, Transaction};

/// Number of records that one transaction writes.
const MAX_BATCH_RECORDS: usize = 256;

/// Counts of an import.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Namespaces of containerd.
    pub namespaces: u64,
    /// Images that the store did not have.
    pub new: u64,
    /// Images of which the store had a different record.
    pub changed: u64,
    /// Images of which the store had the same record.
    pub unchanged: u64,
}

impl Summary {
    fn add(&mut self, counts: Counts) {
        self.new += counts.new;
        self.changed += counts.changed;
        self.unchanged += counts.unchanged;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespaces, new, changed, unchanged } = self;
        let images = new + changed + unchanged;
        write!(
            f,
            "{images} images in {namespaces} namespaces: {new} new, {changed} changed, {unchanged} unchanged"
        )
    }
}

/// Counts of the images of one transaction.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    new: u64,
    changed: u64,
    unchanged: u64,
}

impl Counts {
    fn total(self) -> u64 {
        self.new + self.changed + self.unchanged
    }
}

/// Opens the store to import into.
fn open(root: &Path) -> Result<Store> {
    Store::open(root).map_err(|e| match e {
        Error::FailedPrecondition(m) if m.contains("in use") => Error::FailedPrecondition(format!(
            "{m}: stop the daemon that serves it, import, and start it again"
        )),
        other => other,
    })
}

/// Returns a write that stores a namespace with its labels, unless the store has the same record.
fn put_namespace(
    namespace: &Namespace,
    record: Record,
) -> Result<impl FnMut(&mut Transaction<'_>) -> Result<()> + Send + 'static> {
    let known = Record { name: record.name, labels: record.labels, ..Record::default() };
    let (message, namespace) = (encode(&known)?, namespace.clone());
    Ok(move |transaction: &mut Transaction<'_>| match transaction.namespace(&namespace) {
        Ok(Some(stored)) if stored == message => Ok(()),
        // This includes a damaged record, which the copy replaces.
        _ => transaction.put_namespace(&namespace, &message),
    })
}

/// Returns a write that stores the images that are new or differ, and counts them.
fn put_images(
    namespace: &Namespace,
    images: Vec<Image>,
) -> Result<impl FnMut(&mut Transaction<'_>) -> Result<Counts> + Send + 'static> {
    let namespace = namespace.clone();
    let messages: Vec<_> = images
        .into_iter()
        .map(|image| {
            let expires = gc::expires(&image.labels).map(str::to_owned);
            Ok((images::record(&image)?, image.name, expires))
        })
        .collect::<Result<_>>()?;
    Ok(move |transaction: &mut Transaction<'_>| {
        transaction.set_cause(Cause::own(Origin::ORIGIN_IMPORT));
        let mut counts = Counts::default();
        for (message, name, expires) in &messages {
            match transaction.record(&namespace, Kind::Image, name) {
                Ok(Some(stored)) if stored == message => counts.unchanged += 1,
                Ok(None) => {
                    transaction.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.new += 1;
                }
                Ok(Some(_)) | Err(Error::DataLoss(_)) => {
                    transaction.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.changed += 1;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(counts)
    })
}
