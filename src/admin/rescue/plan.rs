//! What a rescue will do, worked out from the files alone: which images come back, which blobs they need,
//! and what is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::blobs::Blobs;
use super::sources;
use super::tree::{self, Blob, Loss};
use super::wanted::{Wanted, WantedImage};
use crate::model::Namespace;

/// An image of the plan.
#[derive(Debug, Clone)]
pub struct PlannedImage {
    /// What is wanted.
    pub wanted: WantedImage,
    /// The digests of its blobs that are there; what a blob refers to comes before it.
    pub blobs: Vec<String>,
    /// What of it is lost.
    pub lost: Vec<Loss>,
    /// Whether it can get its name.
    pub usable: bool,
}

/// A namespace of the plan.
#[derive(Debug, Clone, Default)]
pub struct PlannedNamespace {
    /// Its labels, if they are known.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its images.
    pub images: Vec<PlannedImage>,
    /// The blobs that its images need, by digest.
    pub blobs: BTreeMap<String, Blob>,
    /// Names of which the record is damaged.
    pub damaged: Vec<String>,
}

/// What a rescue will do.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// By namespace.
    pub namespaces: BTreeMap<Namespace, PlannedNamespace>,
}

/// The size of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Namespaces.
    pub namespaces: u64,
    /// Images that can get their names.
    pub images: u64,
    /// Of these, images that the store has set aside.
    pub aside: u64,
    /// Images that cannot.
    pub unusable: u64,
    /// Blobs to take up; one counts once in each namespace.
    pub blobs: u64,
    /// Their bytes, where each counts once.
    pub bytes: u64,
}

impl Plan {
    /// Works it out. With `with_sources` each blob gets labels that say from which repositories it may
    /// have come.
    pub fn new(wanted: &Wanted, blobs: &Blobs, with_sources: bool) -> Self {
        let mut plan = Self::default();
        for (namespace, wanted) in wanted {
            let mut planned = PlannedNamespace {
                labels: wanted.labels.clone(),
                damaged: wanted.damaged.clone(),
                ..PlannedNamespace::default()
            };
            for wanted in &wanted.images {
                let tree = tree::walk(blobs, &wanted.image.target);
                planned.images.push(PlannedImage {
                    wanted: wanted.clone(),
                    blobs: tree.blobs.iter().map(|blob| blob.digest.clone()).collect(),
                    lost: tree.lost,
                    usable: tree.usable,
                });
                if tree.usable {
                    planned.add(tree.blobs);
                }
            }
            if with_sources {
                let usable = planned.images.iter().filter(|image| image.usable);
                let images = usable.map(|i| (i.wanted.image.name.as_str(), i.blobs.as_slice()));
                sources::label(images, &mut planned.blobs);
            }
            plan.namespaces.insert(namespace.clone(), planned);
        }
        plan
    }

    /// How large it is.
    pub fn extent(&self) -> Extent {
        let mut extent = Extent::default();
        let mut counted = BTreeSet::new();
        for namespace in self.namespaces.values() {
            extent.namespaces += 1;
            for image in &namespace.images {
                extent.images += u64::from(image.usable);
                extent.aside += u64::from(image.usable && image.wanted.aside);
                extent.unusable += u64::from(!image.usable);
            }
            extent.unusable += namespace.damaged.len() as u64;
            extent.blobs += namespace.blobs.len() as u64;
            for blob in namespace.blobs.values() {
                if counted.insert(&blob.digest) {
                    extent.bytes += u64::try_from(blob.size).unwrap_or_default();
                }
            }
        }
        extent
    }

    /// All blobs that it takes up, each once.
    pub fn digests(&self) -> BTreeSet<&str> {
        self.namespaces.values().flat_map(|n| n.blobs.keys().map(String::as_str)).collect()
    }
}

impl PlannedNamespace {
    fn add(&mut self, blobs: Vec<Blob>) {
        for blob in blobs {
            match self.blobs.get_mut(&blob.digest) {
                Some(known) => known.labels.extend(blob.labels),
                None => _ = self.blobs.insert(blob.digest.clone(), blob),
            }
        }
    }
}
