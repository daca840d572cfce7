//! The keys of records: containerd's bolt path, flattened.

use sha2::{Digest, Sha256};

use crate::model::Namespace;

/// The bytes of a long name that its key holds. With the longest namespace, the marker and the hash, a key
/// has 504 of LMDB's 511 bytes.
pub(crate) const NAME_PREFIX_BYTES: usize = 384;

/// The byte between the head of a long name and its hash.
pub(crate) const LONG_MARKER: u8 = 0xff;

/// The kinds of records that a namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Image`
    Image,
    /// `StoredLease`
    Lease,
}

impl Kind {
    /// The segment of keys.
    pub(crate) fn path_segment(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Lease => "leases",
        }
    }

    /// The noun in errors.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Lease => "lease",
        }
    }
}

/// The key of a namespace.
pub(crate) fn namespace_key(namespace: &Namespace) -> Vec<u8> {
    format!("v1/{namespace}").into_bytes()
}

/// The prefix of all keys of namespaces and their records.
pub(crate) const ROOT_PREFIX: &[u8] = b"v1/";

/// The prefix of the keys of all records of a kind in a namespace.
pub(crate) fn prefix(namespace: &Namespace, kind: Kind) -> Vec<u8> {
    format!("v1/{namespace}/{}/", kind.path_segment()).into_bytes()
}

/// The key of a record.
pub(crate) fn key(namespace: &Namespace, kind: Kind, name: &str) -> Vec<u8> {
    let mut key = prefix(namespace, kind);
    key.extend(position_of(name));
    key
}

/// The position of an image among those of its namespace: what its key has behind the namespace.
pub(crate) fn position_of(name: &str) -> Vec<u8> {
    match name.as_bytes().get(..NAME_PREFIX_BYTES) {
        Some(head) if name.len() > NAME_PREFIX_BYTES => {
            [head, &[LONG_MARKER], &Sha256::digest(name)].concat()
        }
        _ => name.as_bytes().to_vec(),
    }
}

/// The namespace in the key of a record, and its kind unless it is the namespace itself. `None` for any
/// other key.
pub(crate) fn parse_key(key: &[u8]) -> Option<(Namespace, Option<Kind>)> {
    let path = key.strip_prefix(ROOT_PREFIX)?;
    let (namespace, rest) = match path.iter().position(|b| *b == b'/') {
        Some(slash) => path.split_at_checked(slash)?,
        None => (path, &[][..]),
    };
    let namespace = Namespace::parse(std::str::from_utf8(namespace).ok()?).ok()?;
    if rest.is_empty() {
        return Some((namespace, None));
    }
    let kind = [Kind::Image, Kind::Lease].into_iter().find(|kind| {
        rest.strip_prefix(b"/")
            .and_then(|rest| rest.strip_prefix(kind.path_segment().as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"/"))
    })?;
    Some((namespace, Some(kind)))
}

/// The part of a prefix of names that all their keys have.
pub(crate) fn name_prefix(beginning: &[u8]) -> &[u8] {
    beginning.get(..NAME_PREFIX_BYTES).unwrap_or(beginning)
}

/// The namespace and the name part of the key of an image; `None` for any other key.
pub(crate) fn image_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = key.strip_prefix(ROOT_PREFIX)?;
    let (namespace, rest) = path.split_at_checked(path.iter().position(|b| *b == b'/')?)?;
    Some((namespace, rest.strip_prefix(b"/images/")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_longer_than_lmdb_takes() {
        let namespace = Namespace::parse(&"n".repeat(76)).unwrap();
        for length in [1, NAME_PREFIX_BYTES, NAME_PREFIX_BYTES + 1, 40_000] {
            assert!(key(&namespace, Kind::Image, &"x".repeat(length)).len() <= 511);
        }
    }

    #[test]
    fn a_name_as_long_as_the_head_is_kept_whole() {
        let namespace = Namespace::parse("n").unwrap();
        let head = "x".repeat(NAME_PREFIX_BYTES);
        assert!(key(&namespace, Kind::Image, &head).ends_with(head.as_bytes()));
        assert!(
            key(&namespace, Kind::Image, &head) < key(&namespace, Kind::Image, &format!("{head}a"))
        );
    }
}
