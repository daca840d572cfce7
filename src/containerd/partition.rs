//! Listing more images than one reply of containerd may carry (16 MiB): by partitions.
//!
//! A partition is a filter. The first partition has all images. A partition whose reply would be too large is
//! split by the next hex digit of the target's digest, because digests spread evenly. Many names may share one
//! digest, so after some digits a partition is split by ranges of the next character of the name. The parts
//! never overlap, and together have the images of the partition, so a listing has each image once. (An image
//! whose target changes meanwhile may come twice or not at all: a caller that needs more must list again.)

use std::fmt;

use go_compat::quote::quote;

/// The digits of the digest that split partitions before names do: 4,096 partitions for each algorithm.
const MAX_DIGITS: usize = 3;

/// Every character.
const ANY: (char, char) = ('\0', char::MAX);

/// Some of the images of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// The prefix of the target's digest; containerd stores sha256, sha384 and sha512.
    digest: String,
    names: Names,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    /// This name.
    One(String),
    /// Names with this prefix and a next character in this range.
    After(String, char, char),
}

/// The outcome of a split.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// The parts.
    Parts(Vec<Partition>),
    /// The partition is one image and cannot be split.
    Indivisible,
}

impl Partition {
    /// All images.
    pub(crate) fn all() -> Self {
        Self { digest: String::new(), names: Names::All }
    }

    /// The filters of a List request for this partition.
    pub(crate) fn filters(&self) -> Vec<String> {
        let mut selectors = Vec::new();
        if !self.digest.is_empty() {
            selectors.push(format!("target.digest~={}", quote(format!("^{}", self.digest))));
        }
        match &self.names {
            Names::All => {}
            Names::One(name) => selectors.push(format!("name=={}", quote(name))),
            Names::After(head, first, last) => {
                // Characters stand by number, so no character of a name needs escaping.
                let number = |c: char| format!(r"\x{{{:x}}}", u32::from(c));
                let head: String = head.chars().map(number).collect();
                let pattern = format!("^{head}[{}-{}]", number(*first), number(*last));
                selectors.push(format!("name~={}", quote(pattern)));
            }
        }
        if selectors.is_empty() { Vec::new() } else { vec![selectors.join(",")] }
    }

    /// Splits this partition into parts.
    pub(crate) fn split(&self) -> Split {
        let named = |names| Self { digest: self.digest.clone(), names };
        Split::Parts(match &self.names {
            Names::All => match self.digest.split_once(':') {
                None => ["sha256:", "sha384:", "sha512:"]
                    .map(|d| Self { digest: d.into(), names: Names::All })
                    .into(),
                Some((_, digits)) if digits.len() < MAX_DIGITS => "0123456789abcdef"
                    .chars()
                    .map(|digit| Self {
                        digest: format!("{}{digit}", self.digest),
                        names: Names::All,
                    })
                    .collect(),
                // No image has an empty name.
                Some(_) => vec![named(Names::After(String::new(), ANY.0, ANY.1))],
            },
            Names::One(_) => return Split::Indivisible,
            Names::After(head, first, last) if first == last => {
                let head = format!("{head}{first}");
                vec![named(Names::One(head.clone())), named(Names::After(head, ANY.0, ANY.1))]
            }
            Names::After(head, first, last) => halves(*first, *last)
                .map(|(first, last)| named(Names::After(head.clone(), first, last)))
                .into(),
        })
    }
}

/// Splits `first..=last` into two ranges. `first` and `last` differ.
fn halves(first: char, last: char) -> [(char, char); 2] {
    // Most names are ASCII, so the first split is at its end.
    let middle = if first.is_ascii() && !last.is_ascii() {
        0x7f
    } else {
        u32::from(first).midpoint(u32::from(last))
    };
    // There are no characters from d800 to dfff.
    let left = char::from_u32(middle).unwrap_or('\u{d7ff}');
    let right = char::from_u32(u32::from(left) + 1).unwrap_or('\u{e000}');
    [(first, left), (right, last)]
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.names {
            Names::One(name) => write!(f, "image {}", quote(name)),
            _ => write!(f, "the images that match {:?}", self.filters()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::Image;
    use crate::model::filter::Filter;

    fn image(name: &str, digest: &str) -> Image {
        let mut image = Image { name: name.into(), ..Image::default() };
        image.target.mut_or_insert_default().digest = digest.into();
        image
    }

    /// Lists with at most `most` images in each reply, as often as that takes.
    fn listed(images: &[Image], most: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut parts = vec![Partition::all()];
        while let Some(partition) = parts.pop() {
            let filter = Filter::parse_all(&partition.filters()).unwrap();
            let matching: Vec<_> = images.iter().filter(|i| filter.matches(*i)).collect();
            if matching.len() <= most {
                found.extend(matching.into_iter().map(|i| i.name.clone()));
            } else if let Split::Parts(smaller) = partition.split() {
                parts.extend(smaller);
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_image_is_in_one_part_however_small_the_parts() {
        let same = format!("sha256:{}", "ab".repeat(32));
        let mut images: Vec<_> = (0..200u32)
            .map(|i| image(&format!("other/{i}"), &format!("sha256:{:064x}", u128::from(i) << 100)))
            .collect();
        images.push(image("x", &format!("sha512:{}", "0".repeat(128))));
        images.push(image("y", &format!("sha384:{}", "0".repeat(96))));
        for name in [
            "a",
            "ab",
            "abc",
            "a\"b\\",
            "a,b ",
            "é",
            "\u{10ffff}",
            "\u{d7ff}",
            "\u{e000}",
            "\0",
            "a\n",
        ] {
            images.push(image(name, &same));
        }
        let mut names: Vec<_> = images.iter().map(|i| i.name.clone()).collect();
        names.sort();
        for most in [1, 2, 50, 1000] {
            assert_eq!(listed(&images, most), names, "{most} a reply");
        }
    }

    #[test]
    fn one_image_cannot_be_split() {
        let one = Partition { digest: "sha256:abc".into(), names: Names::One("a".into()) };
        assert_eq!(one.split(), Split::Indivisible);
    }
}
