//! Finds the expired images that other records keep, by the rules of containerd's collector
//! (`core/metadata/gc.go`, 2.3).
//!
//! An image is kept in each of these cases:
//!
//! - it has not expired;
//! - a lease names it;
//! - a kept image references it by a label `containerd.io/gc.ref.image`;
//! - it has a label `containerd.io/gc.bref.image` with a kept name. No image need have that name: it is
//!   enough that a lease or a kept image references it.
//!
//! The key of either label may continue with `.` or `/` and any text. The value is a name in the same
//! namespace. A lease with the label `containerd.io/gc.flat` keeps only the images that it names.
//!
//! Labels can also tie an image to content, containers and snapshots. The store does not know whether those
//! are kept, so the collector keeps such an image.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The most references of the expired images of one namespace together.
pub(crate) const MAX_LINKS: usize = 1 << 18;

/// The expired images of a namespace have more than [`MAX_LINKS`] references.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyLinks;

/// The label by which an image keeps another.
const REFERENCE: &[u8] = b"containerd.io/gc.ref.image";
/// The label by which an image is kept with another.
const BACK_REFERENCE: &[u8] = b"containerd.io/gc.bref.image";
/// The labels by which an image is kept with content or a container, which this store does not have.
const ELSEWHERE: [&[u8]; 2] =
    [b"containerd.io/gc.bref.content", b"containerd.io/gc.bref.container"];
const ELSEWHERE_SNAPSHOT: &[u8] = b"containerd.io/gc.bref.snapshot.";

/// The meaning of a label for the collector.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<'l> {
    /// The image keeps the image with this name.
    Keeps(&'l str),
    /// The image is kept if this name is kept.
    KeptWith(&'l str),
    /// The image is kept with a thing that this store does not have.
    KeptElsewhere,
}

fn meaning<'l>(key: &[u8], value: &'l [u8]) -> Option<Meaning<'l>> {
    let has_label = |label: &[u8]| {
        let rest = key.strip_prefix(label);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'.' | b'/')))
    };
    // Labels are UTF-8.
    let name = || std::str::from_utf8(value).ok();
    if has_label(REFERENCE) {
        name().map(Meaning::Keeps)
    } else if has_label(BACK_REFERENCE) {
        name().map(Meaning::KeptWith)
    } else if ELSEWHERE.into_iter().any(has_label) || key.starts_with(ELSEWHERE_SNAPSHOT) {
        Some(Meaning::KeptElsewhere)
    } else {
        None
    }
}

/// The names that an image with these labels keeps.
pub(crate) fn kept_by<'l>(
    labels: impl Iterator<Item = (&'l [u8], &'l [u8])>,
) -> impl Iterator<Item = &'l str> {
    labels.filter_map(|(key, value)| match meaning(key, value) {
        Some(Meaning::Keeps(name)) => Some(name),
        _ => None,
    })
}

/// The keyed hash of a name and its namespace. So the memory of a name does not grow with its length. Two
/// names with the same hash are kept together, so a collision never removes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NameId(pub(crate) u64);

/// The references in the labels of an expired image.
#[derive(Debug, Default)]
pub(crate) struct Links {
    keeps: Vec<NameId>,
    kept_with: Vec<NameId>,
    is_kept_elsewhere: bool,
}

impl Links {
    /// Reads labels. `id` returns the hash of a name in the same namespace.
    pub(crate) fn new<'l>(
        labels: impl Iterator<Item = (&'l [u8], &'l [u8])>,
        id: impl Fn(&str) -> NameId,
    ) -> Self {
        let mut links = Self::default();
        for (key, value) in labels {
            match meaning(key, value) {
                Some(Meaning::Keeps(other)) => links.keeps.push(id(other)),
                Some(Meaning::KeptWith(other)) => links.kept_with.push(id(other)),
                Some(Meaning::KeptElsewhere) => links.is_kept_elsewhere = true,
                None => {}
            }
        }
        links
    }

    /// Whether the labels have no reference.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the image is kept with a thing that this store does not have.
    pub(crate) fn is_kept_elsewhere(&self) -> bool {
        self.is_kept_elsewhere
    }

    fn len(&self) -> usize {
        self.keeps.len() + self.kept_with.len() + usize::from(self.is_kept_elsewhere)
    }
}

/// The expired images of some namespaces, and the references between them.
#[derive(Debug, Default)]
pub(crate) struct References {
    nodes: HashMap<NameId, Node>,
    /// The number of candidates that are not kept so far.
    unkept: usize,
    /// The number of references of all nodes.
    links: usize,
}

/// The name of an expired image, or a name that an expired image is kept with.
#[derive(Debug, Default)]
struct Node {
    is_expired: bool,
    is_candidate: bool,
    is_kept: bool,
    /// The images in `keeps` are marked as kept.
    is_followed: bool,
    keeps: Vec<NameId>,
}

impl References {
    /// Adds an expired image. The run may remove it if it is a candidate. The caller adds all images before
    /// it keeps the first.
    ///
    /// # Errors
    /// The images have more than [`MAX_LINKS`] references.
    pub(crate) fn add_expired(
        &mut self,
        id: NameId,
        is_candidate: bool,
        mut links: Links,
    ) -> Result<(), TooManyLinks> {
        if self.links + links.len() > MAX_LINKS {
            return Err(TooManyLinks);
        }
        self.links += links.len();
        for other in links.kept_with {
            self.nodes.entry(other).or_default().keeps.push(id);
        }
        let node = self.nodes.entry(id).or_default();
        node.is_expired = true;
        node.keeps.append(&mut links.keeps);
        if is_candidate && !std::mem::replace(&mut node.is_candidate, true) {
            self.unkept += 1;
        }
        Ok(())
    }

    /// Keeps a name, and all names that it keeps.
    pub(crate) fn keep(&mut self, id: NameId) {
        let mut ids = vec![id];
        while let Some(id) = ids.pop() {
            self.keep_alone(id);
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if !std::mem::replace(&mut node.is_followed, true) {
                ids.append(&mut node.keeps);
            }
        }
    }

    /// Keeps a name, but not the names that it keeps.
    pub(crate) fn keep_alone(&mut self, id: NameId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let was_kept = std::mem::replace(&mut node.is_kept, true);
        if node.is_candidate && !was_kept {
            self.unkept -= 1;
        }
    }

    /// Whether an expired image of this name was added.
    pub(crate) fn is_expired(&self, id: NameId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_expired)
    }

    /// Whether a name is kept. A name that is not a candidate counts as kept.
    pub(crate) fn is_kept(&self, id: NameId) -> bool {
        self.nodes.get(&id).is_none_or(|node| node.is_kept || !node.is_candidate)
    }

    /// Whether all candidates are kept.
    pub(crate) fn are_all_kept(&self) -> bool {
        self.unkept == 0
    }

    /// Adds the images of another namespace.
    pub(crate) fn extend(&mut self, other: Self) {
        self.unkept += other.unkept;
        for (id, mut node) in other.nodes {
            match self.nodes.entry(id) {
                Entry::Vacant(place) => drop(place.insert(node)),
                Entry::Occupied(mut place) => {
                    // Two names have the same hash.
                    let place = place.get_mut();
                    place.keeps.append(&mut node.keeps);
                    place.is_candidate |= node.is_candidate;
                    place.is_followed = false;
                    self.keep(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_meaning_of_containerd() {
        use Meaning::{Keeps, KeptElsewhere, KeptWith};
        for (key, expected) in [
            ("containerd.io/gc.ref.image", Some(Keeps("v"))),
            ("containerd.io/gc.ref.image.", Some(Keeps("v"))),
            ("containerd.io/gc.ref.image.x/y", Some(Keeps("v"))),
            ("containerd.io/gc.ref.image/0", Some(Keeps("v"))),
            ("containerd.io/gc.ref.images", None),
            ("containerd.io/gc.ref.image-x", None),
            ("containerd.io/gc.ref.imag", None),
            ("x.containerd.io/gc.ref.image", None),
            ("containerd.io/gc.ref.content", None),
            ("containerd.io/gc.bref.image", Some(KeptWith("v"))),
            ("containerd.io/gc.bref.image.a", Some(KeptWith("v"))),
            ("containerd.io/gc.bref.image/a", Some(KeptWith("v"))),
            ("containerd.io/gc.bref.images", None),
            ("containerd.io/gc.bref.content", Some(KeptElsewhere)),
            ("containerd.io/gc.bref.content.m.0", Some(KeptElsewhere)),
            ("containerd.io/gc.bref.contents", None),
            ("containerd.io/gc.bref.container", Some(KeptElsewhere)),
            ("containerd.io/gc.bref.container/x", Some(KeptElsewhere)),
            ("containerd.io/gc.bref.containers", None),
            ("containerd.io/gc.bref.snapshot", None),
            ("containerd.io/gc.bref.snapshot.overlayfs", Some(KeptElsewhere)),
            ("containerd.io/gc.bref.snapshot./x", Some(KeptElsewhere)),
            ("containerd.io/gc.expire", None),
            ("containerd.io/gc.root", None),
        ] {
            assert_eq!(meaning(key.as_bytes(), b"v"), expected, "{key}");
        }
    }

    /// Expired images with their references: `a>b` keeps b, `a<b` is kept with b.
    fn expired(images: &[&str]) -> References {
        let mut references = References::default();
        for image in images {
            let name = &image[..1];
            let labels: Vec<(String, &str)> = image[1..]
                .split(' ')
                .filter(|label| !label.is_empty())
                .enumerate()
                .map(|(number, label)| match label.split_at(1) {
                    (">", other) => (format!("containerd.io/gc.ref.image.{number}"), other),
                    (_, other) => (format!("containerd.io/gc.bref.image.{number}"), other),
                })
                .collect();
            let labels = labels.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            references.add_expired(id(name), true, Links::new(labels, id)).unwrap();
        }
        references
    }

    fn id(name: &str) -> NameId {
        NameId(name.bytes().fold(0, |hash, byte| hash << 8 | u64::from(byte)))
    }

    #[test]
    fn kept_images_keep_others_along_chains_of_both_labels() {
        // x is no expired image.
        let images = ["a>b", "b>c >a", "c", "d<a", "e<d", "f>g", "g>f", "h<x", "i<none", "j>j"];
        let kept = |roots: &[&str]| {
            let mut references = expired(&images);
            for root in roots {
                references.keep(id(root));
            }
            let kept = images.iter().map(|image| &image[..1]);
            let kept: String = kept.filter(|name| references.is_kept(id(name))).collect();
            assert_eq!(references.are_all_kept(), kept.len() == images.len());
            kept
        };
        assert_eq!(kept(&[]), "");
        assert_eq!(kept(&["a"]), "abcde");
        assert_eq!(kept(&["b"]), "abcde");
        assert_eq!(kept(&["c"]), "c");
        assert_eq!(kept(&["d"]), "de");
        assert_eq!(kept(&["f"]), "fg");
        assert_eq!(kept(&["x"]), "h");
        assert_eq!(kept(&["none", "a", "f", "x", "j"]), "abcdefghij");
    }

    #[test]
    fn a_name_that_is_kept_alone_can_still_be_kept_with_others() {
        let mut references = expired(&["a>b", "b"]);
        references.keep_alone(id("a"));
        assert!(references.is_kept(id("a")) && !references.is_kept(id("b")));
        references.keep(id("a"));
        assert!(references.is_kept(id("b")) && references.are_all_kept());
    }

    #[test]
    fn references_are_bounded_and_images_outside_the_batch_keep_candidates() {
        let links = |count: usize| Links {
            keeps: (0..count as u64).map(NameId).collect(),
            ..Links::default()
        };
        let mut references = References::default();
        references.add_expired(NameId(u64::MAX), false, links(MAX_LINKS)).unwrap();
        assert_eq!(references.add_expired(NameId(8), true, links(1)), Err(TooManyLinks));
        references.add_expired(NameId(7), true, links(0)).unwrap();
        assert!(!references.is_kept(NameId(7)) && !references.are_all_kept());
        references.keep(NameId(u64::MAX));
        assert!(references.is_kept(NameId(7)) && references.are_all_kept());
    }
}
