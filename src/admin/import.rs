//! `lmdb-images import`: copies the image records and namespaces of a running containerd into a
//! store that no daemon serves.
//!
//! It copies in: records that containerd does not have stay. Times are kept. A record that is there
//! already, byte for byte, is not written again, so a second run changes nothing.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::front::client::Containerd;
use crate::model::{Error, Namespace, Result, image};
use crate::service::collector;
use crate::service::message::encode;
use crate::store::{Change, Kind, Records, Store};

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

/// Copies what the containerd behind `socket` has into the store in `root`.
pub async fn run(root: &Path, socket: &Path) -> Result<Summary> {
    // First, so that nothing is created for a containerd that is not there.
    let containerd = Containerd::connect(socket).await?;
    let store = Store::open(root).map_err(|e| match e {
        Error::FailedPrecondition(m) if m.contains("in use") => Error::FailedPrecondition(format!(
            "{m}: stop the daemon that serves it, import, and start it again"
        )),
        other => other,
    })?;
    let progress = progress();
    let mut summary = Summary::default();
    for record in containerd.namespaces().await? {
        let namespace = Namespace::parse(&record.name)?;
        progress.set_message(format!("namespace {namespace}"));
        put_namespace(&store, &namespace, record).await?;
        summary.namespaces += 1;
        let mut listing = containerd.images(&namespace);
        while let Some(images) = listing.next().await? {
            for batch in images.chunks(BATCH) {
                let batch = batch.iter().cloned().map(image::from_record).collect();
                let (new, changed, unchanged) = put_images(&store, &namespace, batch).await?;
                summary.new += new;
                summary.changed += changed;
                summary.unchanged += unchanged;
                progress.inc(new + changed + unchanged);
            }
        }
    }
    progress.finish_and_clear();
    Ok(summary)
}

/// A line on the terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    let progress = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} images, {per_sec}  {msg}") {
        progress.set_style(style);
    }
    progress
}

async fn put_namespace(store: &Store, namespace: &Namespace, record: Record) -> Result<()> {
    let known = Record { name: record.name, labels: record.labels, ..Record::default() };
    let (message, namespace) = (encode(&known)?, namespace.clone());
    let work = move |change: &mut Change<'_>| match change.namespace(&namespace) {
        Ok(Some(stored)) if stored == message => Ok(()),
        // A damaged one is mended by the copy.
        _ => change.put_namespace(&namespace, &message),
    };
    store.writer().write(work).await
}

/// Writes those that differ; counts the new, the changed and the unchanged.
async fn put_images(
    store: &Store,
    namespace: &Namespace,
    images: Vec<Image>,
) -> Result<(u64, u64, u64)> {
    let namespace = namespace.clone();
    let messages: Vec<_> = images
        .into_iter()
        .map(|image| {
            let expires = collector::expires(&image.labels).map(str::to_owned);
            Ok((encode(&image)?, image.name, expires))
        })
        .collect::<Result<_>>()?;
    let work = move |change: &mut Change<'_>| {
        let mut counts = (0, 0, 0);
        for (message, name, expires) in &messages {
            match change.record(&namespace, Kind::Image, name) {
                Ok(Some(stored)) if stored == message => counts.2 += 1,
                Ok(None) => {
                    change.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.0 += 1;
                }
                Ok(Some(_)) | Err(Error::DataLoss(_)) => {
                    change.put(&namespace, Kind::Image, name, message, expires.as_deref())?;
                    counts.1 += 1;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(counts)
    };
    store.writer().write(work).await
}
