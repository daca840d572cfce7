//! The plan of a rescue, made from the files alone: the images that come back, the blobs that they need, and
//! the losses.

use std::collections::{BTreeMap, BTreeSet};

use super::blobs::BlobFolder;
use super::sources;
use super::tree::{self, BlobInfo, Loss};
use super::wanted::{Wanted, WantedImage};
use crate::model::Namespace;

/// An image of the plan.
#[derive(Debug, Clone)]
pub(crate) struct PlannedImage {
    /// The image that should be there.
    pub(crate) wanted: WantedImage,
    /// The digests of its blobs on disk. A blob comes after the blobs that it refers to.
    pub(crate) blobs: Vec<String>,
    /// The lost parts of the image.
    pub(crate) lost: Vec<Loss>,
    /// Whether the image can get its name.
    pub(crate) usable: bool,
}

/// A namespace of the plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlannedNamespace {
    /// The labels of the namespace, if they are known.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// The images.
    pub(crate) images: Vec<PlannedImage>,
    /// The blobs that its images need, by digest.
    pub(crate) blobs: BTreeMap<String, BlobInfo>,
    /// Names whose record is damaged.
    pub(crate) damaged: Vec<String>,
}

/// The plan of a rescue.
#[derive(Debug, Clone, Default)]
pub(crate) struct RescuePlan {
    /// By namespace.
    pub(crate) namespaces: BTreeMap<Namespace, PlannedNamespace>,
}

/// The size of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Namespaces.
    pub(crate) namespaces: u64,
    /// Images that can get their names.
    pub(crate) images: u64,
    /// Of these, images that the store has set aside.
    pub(crate) set_aside: u64,
    /// Images that cannot get their names.
    pub(crate) unusable: u64,
    /// Blobs to take up. A blob counts once in each namespace.
    pub(crate) blobs: u64,
    /// The bytes of the blobs. A blob counts once.
    pub(crate) bytes: u64,
}

impl RescuePlan {
    /// Makes the plan. With `with_sources` each blob gets labels with the repositories that it may have come
    /// from.
    pub(crate) fn new(wanted: &Wanted, blobs: &BlobFolder, with_sources: bool) -> Self {
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

    /// The size of the plan.
    pub(crate) fn extent(&self) -> Extent {
        let mut extent = Extent::default();
        let mut counted = BTreeSet::new();
        for namespace in self.namespaces.values() {
            extent.namespaces += 1;
            for image in &namespace.images {
                extent.images += u64::from(image.usable);
                extent.set_aside += u64::from(image.usable && image.wanted.is_set_aside);
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

    /// All blobs to take up, each once.
    pub(crate) fn digests(&self) -> BTreeSet<&str> {
        self.namespaces.values().flat_map(|n| n.blobs.keys().map(String::as_str)).collect()
    }
}

impl PlannedNamespace {
    fn add(&mut self, blobs: Vec<BlobInfo>) {
        for blob in blobs {
            match self.blobs.get_mut(&blob.digest) {
                Some(known) => known.labels.extend(blob.labels),
                None => _ = self.blobs.insert(blob.digest.clone(), blob),
            }
        }
    }
}
