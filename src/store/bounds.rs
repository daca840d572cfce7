//! The sizes with which an LMDB environment is opened.

/// The most concurrent readers of all processes. A daemon needs a few, a command needs one.
pub(crate) const MAX_READERS: u32 = 512;

/// The address space of the map, in bytes. It costs neither memory nor disk.
pub(crate) const MAP_SIZE: usize = 1 << 40;

// The verifier must accept the map of a store.
const _: () = assert!(MAP_SIZE as u64 <= lmdb_verify::MAX_MAP_SIZE);

/// The smallest usable map, in bytes, where the address space is limited.
pub(crate) const MIN_MAP_SIZE: usize = 16 << 20;
