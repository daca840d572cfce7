//! Finds images in every page of a bolt file, for a file whose list of buckets or whose meta pages are lost.
//!
//! A page does not say whether it is in use. A free page has records of a past transaction. So an image that is
//! found may have been changed or deleted since. [`Certainty`] says how certain each image is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bbolt_read::{Entry, ReadAt, Scan, Snapshot, Value};

use crate::api::images::Image;
use crate::containerd::schema;
use crate::model::{Error, Namespace, Result};

/// The namespace of images whose own is lost.
pub(crate) const UNKNOWN_NAMESPACE: &str = "salvaged";

/// How certain it is that this is the last record that containerd had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Certainty {
    /// The namespace of the image is known, and only one version of the image was found.
    Likely,
    /// The namespace is known, and this is the newest of this number of versions, by their times.
    Newest(usize),
    /// The page with the name of its namespace is lost.
    NamespaceUnknown,
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Likely => f.write_str("likely: the only version found"),
            Self::Newest(versions) => {
                write!(f, "less sure: the newest of {versions} versions found")
            }
            Self::NamespaceUnknown => f.write_str("a guess: its namespace is lost"),
        }
    }
}

/// An image that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    /// The namespace, or [`UNKNOWN_NAMESPACE`].
    pub namespace: Namespace,
    /// The record.
    pub image: Image,
    /// How certain the guess is.
    pub(crate) certainty: Certainty,
}

/// The records that the pages of a file contain.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Labels of the namespaces that were found.
    pub namespaces: BTreeMap<Namespace, BTreeMap<String, String>>,
    /// Images, ordered by namespace and name.
    pub images: Vec<Guess>,
}

type ImagesByName = BTreeMap<(Namespace, String), Vec<Image>>;

/// Reads every page. Accepts any bytes.
///
/// # Errors
/// `DataLoss` if no page is one of bolt's.
pub fn scan<S: ReadAt + ?Sized>(source: &S) -> Result<Scanned> {
    let scan = Scan::open(source).map_err(|damage| Error::DataLoss(damage.to_string()))?;
    let snapshot = scan.snapshot();
    let unknown = Namespace::parse(UNKNOWN_NAMESPACE)?;
    let (mut scanned, mut placed) = (Scanned::default(), ImagesByName::new());
    let mut unplaced: BTreeMap<String, Vec<Image>> = BTreeMap::new();
    for entry in scan.leaves().flatten() {
        let Value::Bucket(bucket) = &entry.value else { continue };
        if let Some(namespace) = namespace_of(snapshot, &entry, &mut scanned, &mut placed) {
            scanned.namespaces.entry(namespace).or_default();
        } else if let Ok(image) =
            schema::image(snapshot, &entry.key, entry.page, bucket, &mut |_, _| {})
        {
            add(unplaced.entry(image.name.clone()).or_default(), image);
        }
    }
    for ((namespace, _), versions) in &placed {
        let certainty = match versions.len() {
            1 => Certainty::Likely,
            versions => Certainty::Newest(versions),
        };
        push(&mut scanned.images, namespace, versions, certainty);
    }
    // The page of a namespace leads to its images, so the scan finds most images twice.
    let placed: BTreeSet<&String> = placed.keys().map(|(_, name)| name).collect();
    for (name, versions) in unplaced {
        if !placed.contains(&name) {
            push(&mut scanned.images, &unknown, &versions, Certainty::NamespaceUnknown);
        }
    }
    scanned
        .images
        .sort_by(|a, b| (&a.namespace, &a.image.name).cmp(&(&b.namespace, &b.image.name)));
    Ok(scanned)
}

/// The namespace of an entry whose bucket has images. Adds these images to `found`.
fn namespace_of<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    entry: &Entry,
    scanned: &mut Scanned,
    found: &mut ImagesByName,
) -> Option<Namespace> {
    let Value::Bucket(bucket) = &entry.value else { return None };
    let namespace = Namespace::parse(std::str::from_utf8(&entry.key).ok()?).ok()?;
    let images = match snapshot.get(bucket, b"images").ok()?? {
        Value::Bucket(images) => images,
        Value::Bytes(_) => return None,
    };
    if let Ok(Some(Value::Bucket(labels))) = snapshot.get(bucket, b"labels")
        && let Ok(labels) = schema::texts(snapshot, &labels)
    {
        scanned.namespaces.entry(namespace.clone()).or_default().extend(labels);
    }
    for entry in snapshot.entries(&images).flatten() {
        if let Value::Bucket(bucket) = &entry.value
            && let Ok(image) =
                schema::image(snapshot, &entry.key, entry.page, bucket, &mut |_, _| {})
        {
            add(found.entry((namespace.clone(), image.name.clone())).or_default(), image);
        }
    }
    Some(namespace)
}

fn add(versions: &mut Vec<Image>, image: Image) {
    if !versions.contains(&image) {
        versions.push(image);
    }
}

/// Adds the newest of some versions.
fn push(images: &mut Vec<Guess>, namespace: &Namespace, versions: &[Image], certainty: Certainty) {
    let time = |image: &&Image| (image.updated_at.seconds, image.updated_at.nanos);
    if let Some(image) = versions.iter().max_by_key(time).cloned() {
        images.push(Guess { namespace: namespace.clone(), image, certainty });
    }
}
