//! `lmdb-images import`: copies image records and namespaces into a store that no daemon serves: of a
//! running containerd ([`live`]), or of the bolt file that a containerd left ([`bolt`]).
//!
//! It copies in: records that are not there stay. Times are kept. A record that is in the store
//! already, byte for byte, is not written again, so a second run changes nothing.

pub mod bolt;
pub mod containerd_schema;
pub mod live;

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::model::{Error, Namespace, Result};
use crate::service::codec::encode;
use crate::service::gc;
use crate::service::images;
use crate::store::{Kind, Records, Store, Transaction};

/// So many records go into a transaction.
const BATCH: usize = 256;

/// What an import did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Namespaces seen in containerd.
    pub namespaces: u64,
    /// Images that were not in the store.
    pub new: u64,
    /// Images that were there, but not the same.
    pub changed: u64,
    /// Images that were there already.
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

/// What became of the images of one transaction.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    new: u64,
    changed: u64,
    unchanged: u64,
}

impl Counts {
    fn all(self) -> u64 {
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

/// A line on the terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    let progress = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} images, {per_sec}  {msg}") {
        progress.set_style(style);
    }
    progress
}

/// The change that puts a namespace with its labels, unless it is there and the same.
fn put_namespace(
    namespace: &Namespace,
    record: Record,
) -> Result<impl FnMut(&mut Transaction<'_>) -> Result<()> + Send + 'static> {
    let known = Record { name: record.name, labels: record.labels, ..Record::default() };
    let (message, namespace) = (encode(&known)?, namespace.clone());
    Ok(move |change: &mut Transaction<'_>| match change.namespace(&namespace) {
        Ok(Some(stored)) if stored == message => Ok(()),
        // A damaged one is mended by the copy.
        _ => change.put_namespace(&namespace, &message),
    })
}

/// The change that puts those images that differ; it counts.
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
    Ok(move |change: &mut Transaction<'_>| {
        let mut counts = Counts::default();
        for (message, name, expires) in &messages {
            match change.record(&namespace, Kind::Image, name) {
                Ok(Some(stored)) if stored == message => counts.unchanged += 1,
                Ok(None) => {
                    change.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.new += 1;
                }
                Ok(Some(_)) | Err(Error::DataLoss(_)) => {
                    change.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.changed += 1;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(counts)
    })
}
