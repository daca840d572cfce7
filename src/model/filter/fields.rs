//! The fields of an object, and how many a request may name.

/// The names of fields that the filters of a request may have together; each selector has one at least.
/// containerd has no bound but that of a message; here a selector takes some hundred times the memory
/// of its text.
pub(super) const MAX_FIELDS: usize = 32 << 10;

/// An object that filters can be applied to.
pub trait Fields {
    /// The value of the field at `path`, which is never empty; `None` if the
    /// object has no such field.
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]>;
}
