//! Finds the expired images that are still referenced, by the rules of containerd's collector
//! (`core/metadata/gc.go`, 2.3).
//!
//! An image is kept if one of these holds:
//!
//! - it has not expired
//! - a lease names it
//! - a kept image refers to it by a label `containerd.io/gc.ref.image`
//! - it refers by a label `containerd.io/gc.bref.image` to a kept name. That name need not be an image's:
//!   it is kept as soon as anything kept refers to it.
//!
//! Either label may have a suffix that begins with `.` or `/`. The value is a name in the same namespace. A
//! lease with the label `containerd.io/gc.flat` keeps only the images that it names.
//!
//! Images also refer back to content, containers and snapshots, which this process does not have. Such
//! an image is kept.

use std::collections::HashMap;

/// The label by which an image keeps another.
const REFERENCE: &[u8] = b"containerd.io/gc.ref.image";
/// The label by which an image is kept with another.
const BACK_REFERENCE: &[u8] = b"containerd.io/gc.bref.image";
/// The labels by which an image is kept with content, a container or a snapshot.
const ELSEWHERE: [&[u8]; 2] =
    [b"containerd.io/gc.bref.content", b"containerd.io/gc.bref.container"];
const ELSEWHERE_SNAPSHOT: &[u8] = b"containerd.io/gc.bref.snapshot.";

/// The reference in a label.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<'l> {
    /// The image keeps the image of that name.
    Keeps(&'l str),
    /// The image is kept with that name.
    KeptWith(&'l str),
    /// The image is kept with an object that this process does not have.
    KeptElsewhere,
}

fn meaning<'l>(key: &[u8], value: &'l [u8]) -> Option<Meaning<'l>> {
    let is = |label: &[u8]| {
        let rest = key.strip_prefix(label);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'.' | b'/')))
    };
    // Labels are valid UTF-8.
    let name = || std::str::from_utf8(value).ok();
    if is(REFERENCE) {
        name().map(Meaning::Keeps)
    } else if is(BACK_REFERENCE) {
        name().map(Meaning::KeptWith)
    } else if ELSEWHERE.into_iter().any(is) || key.starts_with(ELSEWHERE_SNAPSHOT) {
        Some(Meaning::KeptElsewhere)
    } else {
        None
    }
}

/// The images that an image with these labels keeps.
pub fn kept_by<'l>(
    labels: impl Iterator<Item = (&'l [u8], &'l [u8])>,
) -> impl Iterator<Item = &'l str> {
    labels.filter_map(|(key, value)| match meaning(key, value) {
        Some(Meaning::Keeps(name)) => Some(name),
        _ => None,
    })
}

/// The expired images of a namespace, and the references to them.
#[derive(Debug, Default)]
pub struct References {
    nodes: HashMap<Box<str>, Node>,
    /// The number of expired images without a known reference.
    unkept: usize,
}

/// The name of an expired image, or a name that such an image refers back to.
#[derive(Debug, Default)]
struct Node {
    is_expired: bool,
    is_kept: bool,
    /// Whether the images that refer back to this name were kept too.
    is_followed: bool,
    keeps: Vec<Box<str>>,
}

impl References {
    /// Adds an expired image. The caller adds all of them before it keeps the first.
    pub fn add_expired<'l>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'l [u8], &'l [u8])>,
    ) -> bool {
        let (mut keeps, mut is_kept_elsewhere) = (Vec::new(), false);
        for (key, value) in labels {
            match meaning(key, value) {
                Some(Meaning::Keeps(other)) => keeps.push(other.into()),
                Some(Meaning::KeptWith(other)) => self.node(other).keeps.push(name.into()),
                Some(Meaning::KeptElsewhere) => is_kept_elsewhere = true,
                None => {}
            }
        }
        self.unkept += 1;
        let node = self.node(name);
        node.is_expired = true;
        node.keeps.append(&mut keeps);
        is_kept_elsewhere
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.entry(name.into()).or_default()
    }

    /// Keeps a name, and the images that refer back to it.
    pub fn keep(&mut self, name: &str) {
        let mut names: Vec<Box<str>> = vec![name.into()];
        while let Some(name) = names.pop() {
            self.keep_alone(&name);
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            if !std::mem::replace(&mut node.is_followed, true) {
                names.append(&mut node.keeps);
            }
        }
    }

    /// Keeps a name, but not the images that refer back to it.
    pub fn keep_alone(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let was_kept = std::mem::replace(&mut node.is_kept, true);
        if node.is_expired && !was_kept {
            self.unkept -= 1;
        }
    }

    /// Returns true for the name of an expired image, kept or not.
    pub fn is_expired(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.is_expired)
    }

    /// Whether an expired image is kept. An unknown name counts as kept.
    pub fn is_kept(&self, name: &str) -> bool {
        self.nodes.get(name).is_none_or(|node| node.is_kept || !node.is_expired)
    }

    /// Whether all expired images are kept.
    pub fn are_all_kept(&self) -> bool {
        self.unkept == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_mean_what_they_mean_to_containerd() {
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
            assert!(!references.add_expired(name, labels));
        }
        references
    }

    #[test]
    fn what_is_kept_keeps_others_along_chains_of_both_kinds() {
        // x is no expired image.
        let images = ["a>b", "b>c >a", "c", "d<a", "e<d", "f>g", "g>f", "h<x", "i<nobody", "j>j"];
        let kept = |roots: &[&str]| {
            let mut references = expired(&images);
            for root in roots {
                references.keep(root);
            }
            let kept = images.iter().map(|image| &image[..1]);
            let kept: String = kept.filter(|name| references.is_kept(name)).collect();
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
        assert_eq!(kept(&["nobody", "a", "f", "x", "j"]), "abcdefghij");
    }

    #[test]
    fn a_name_that_is_kept_alone_can_still_be_kept_with_others() {
        let mut references = expired(&["a>b", "b"]);
        references.keep_alone("a");
        assert!(references.is_kept("a") && !references.is_kept("b"));
        references.keep("a");
        assert!(references.is_kept("b") && references.are_all_kept());
    }
}
