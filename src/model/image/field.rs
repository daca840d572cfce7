//! The fields of an image that filters may name, as containerd 2.3 adapts an image. Anything else
//! is absent from every image.

/// A field that an image may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'p> {
    /// `name`; what a path says behind that is not looked at.
    Name,
    /// `target.digest`, likewise.
    Digest,
    /// `target.mediatype`, likewise.
    MediaType,
    /// `labels.<key>`
    Label(Key<'p>),
    /// `annotations.<key>`
    Annotation(Key<'p>),
}

impl<'p> Field<'p> {
    /// The field at a path; `None` where no image has one.
    pub fn at(path: &'p [Vec<u8>]) -> Option<Self> {
        let (first, rest) = path.split_first()?;
        Some(match (first.as_slice(), rest) {
            (b"name", _) => Self::Name,
            (b"target", [what, ..]) => match what.as_slice() {
                b"digest" => Self::Digest,
                b"mediatype" => Self::MediaType,
                _ => return None,
            },
            (b"labels", key) => Self::Label(Key(key)),
            (b"annotations", key) => Self::Annotation(Key(key)),
            _ => return None,
        })
    }
}

/// The rest of a path as the key of a map: its parts with dots between them, as keys may have
/// dots in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'p>(&'p [Vec<u8>]);

impl<'p> Key<'p> {
    /// The parts of the path.
    pub fn parts(&self) -> &'p [Vec<u8>] {
        self.0
    }

    /// Whether it is this key.
    pub fn is(&self, key: &[u8]) -> bool {
        let Some((first, rest)) = self.0.split_first() else { return key.is_empty() };
        let Some(mut left) = key.strip_prefix(first.as_slice()) else { return false };
        for part in rest {
            match left.strip_prefix(b".").and_then(|left| left.strip_prefix(part.as_slice())) {
                Some(after) => left = after,
                None => return false,
            }
        }
        left.is_empty()
    }

    /// The key itself.
    pub fn joined(&self) -> Vec<u8> {
        self.0.join(&b'.')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_parts_with_dots() {
        let path = |parts: &[&str]| parts.iter().map(|p| p.as_bytes().to_vec()).collect::<Vec<_>>();
        let keys = ["", ".", "a", "a.", ".a", "a.b", "a..b", "ab", "a.b.c"];
        for parts in [&[][..], &[""], &["", ""], &["a"], &["a", "b"], &["a.b"], &["a", "", "b"]] {
            let path = path(parts);
            for key in keys {
                assert_eq!(
                    Key(&path).is(key.as_bytes()),
                    parts.join(".") == key,
                    "{parts:?} {key}"
                );
            }
            assert_eq!(Key(&path).joined(), parts.join(".").as_bytes());
        }
    }
}
