//! The sizes of the journal and its entries.

/// Bytes of the file.
pub(crate) const LENGTH: usize = 256 << 10;

/// The boundary on which an entry begins, in bytes. The header has the first sector.
pub(crate) const SECTOR: usize = 512;

/// Bytes of changes that go into an entry at most: more are as well written to LMDB at once.
pub(crate) const MAX_ENTRY_BYTES: usize = 64 << 10;
