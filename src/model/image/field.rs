//! The fields of an image that filters can name, as in containerd 2.3. No image has any other field.

/// A field of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'p> {
    /// `name`. The rest of the path is ignored.
    Name,
    /// `target.digest`. The rest of the path is ignored.
    Digest,
    /// `target.mediatype`. The rest of the path is ignored.
    MediaType,
    /// `labels.<key>`
    Label(Key<'p>),
    /// `annotations.<key>`
    Annotation(Key<'p>),
}

impl<'p> Field<'p> {
    /// Returns the field at a path; `None` if no image has such a field.
    pub(crate) fn at(path: &'p [Vec<u8>]) -> Option<Self> {
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

/// The rest of a path as the key of a map: its parts joined by dots, because keys may contain dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'p>(&'p [Vec<u8>]);

impl<'p> Key<'p> {
    /// Parts of the path.
    pub(crate) fn parts(&self) -> &'p [Vec<u8>] {
        self.0
    }

    /// Compares without joining the parts.
    pub(crate) fn equals(&self, key: &[u8]) -> bool {
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

    /// Returns the joined key.
    pub(crate) fn joined(&self) -> Vec<u8> {
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
                    Key(&path).equals(key.as_bytes()),
                    parts.join(".") == key,
                    "{parts:?} {key}"
                );
            }
            assert_eq!(Key(&path).joined(), parts.join(".").as_bytes());
        }
    }
}
