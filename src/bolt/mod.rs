//! Reading bolt files, the format of containerd's `meta.db`, without containerd.
//!
//! - [`source`]: where bytes come from: a file, or memory
//! - [`meta`]: the two pages that say which state is the last, with their checksums
//! - [`page`]: one page, every offset in it checked
//! - [`tree`]: the buckets and their entries, in order
//! - [`containerd`]: what containerd keeps there: namespaces and images
//!
//! It reads and never writes, and believes nothing: a damaged or hostile file gives errors that
//! name the page, never a panic, an endless walk, or memory beyond a few pages. Bolt has a checksum
//! on its meta pages only. A page is checked against all that is known of it (its number, its kind,
//! the order of its keys, what its parent says of them), but a changed byte inside a key or a value
//! may go unseen, as it does in containerd itself.
//!
//! The format is bbolt's, version 2, as machines of little-endian byte order write it:
//!
//! ```text
//! page      = id u64, flags u16, count u16, overflow u32; then elements; then their keys and values.
//!             It goes on for `overflow` more pages.
//! branch    = count × (pos u32, key size u32, page u64); then keys
//! leaf      = count × (flags u32, pos u32, key size u32, value size u32); then keys and values.
//!             pos counts from the element itself; flag 1 is a bucket.
//! bucket    = root page u64, sequence u64; with root 0 its only page, a leaf, follows at once
//! ```

pub mod containerd;
pub mod meta;
pub mod page;
pub mod source;
pub mod tree;

use std::fmt;

pub use source::ReadAt;
pub use tree::{Bolt, Bucket};

/// What is wrong with a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its number.
    pub page: u64,
    /// What is wrong: `page 7: <what>`.
    pub what: String,
}

impl Damage {
    fn new(page: u64, what: impl Into<String>) -> Self {
        Self { page, what: what.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}: {}", self.page, self.what)
    }
}

/// The little-endian number of `N` bytes at `at`; nothing where there are fewer.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
