//! `lmdb-images import`: copies image records and namespaces into a store, from a running containerd
//! ([`live`]) or from containerd's bolt file ([`bolt`]). The daemon must be stopped.
//!
//! An imported record keeps its times of creation and update. A record that only the store has stays. A
//! record that the store already has byte for byte is not written again, so a second run changes nothing.

pub mod bolt;
pub mod containerd_scan;
pub mod containerd_schema;
pub(crate) mod live;

use std::path::Path;

use crate::admin::restore::stop_daemon_hint;
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
    /// Namespaces that containerd has.
    pub namespaces: u64,
    /// Images that the store did not have.
    pub new: u64,
    /// Images that replaced a different or a damaged record of the store.
    pub changed: u64,
    /// Images whose record the store already had.
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

/// Opens the store that receives the records. The error tells the user to stop the daemon first.
fn open(root: &Path) -> Result<Store> {
    Store::open(root).map_err(|e| stop_daemon_hint(e, "import, and start it again"))
}

/// Returns a closure for the writer thread. It stores a namespace with its labels, unless the store has the
/// same record.
fn put_namespace(
    namespace: &Namespace,
    record: Record,
) -> Result<impl FnOnce(&mut Transaction<'_>) -> Result<()> + Send + 'static> {
    let known = Record { name: record.name, labels: record.labels, ..Record::default() };
    let (message, namespace) = (encode(&known)?, namespace.clone());
    Ok(move |transaction: &mut Transaction<'_>| match transaction.namespace(&namespace) {
        Ok(Some(stored)) if stored == message => Ok(()),
        // A damaged record ends up here too: the imported record replaces it.
        _ => transaction.put_namespace(&namespace, &message),
    })
}

/// Returns a closure for the writer thread. It stores the images that are new or differ from the store's
/// record, and counts the new, changed and unchanged images.
fn put_images(
    namespace: &Namespace,
    images: Vec<Image>,
) -> Result<impl FnOnce(&mut Transaction<'_>) -> Result<Counts> + Send + 'static> {
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
