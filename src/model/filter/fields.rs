//! The fields of an object, and how many of them a request may name.

/// Number of field names in all filters of a request together. Each selector has at least one.
/// containerd is limited only by the size of a message; here a selector takes some hundred times the
/// memory of its text.
pub(super) const MAX_FIELDS: usize = 32 << 10;

/// An object to which filters can be applied.
pub trait Fields {
    /// Returns the value of the field at `path`; `None` if the object has no such field. `path` is never
    /// empty.
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]>;
}
