//! The sizes with which an LMDB environment is opened.

/// Readers at one time, of all processes together. A daemon needs a few; an admin's command one.
pub const MAX_READERS: u32 = 512;

/// Address space that is reserved for the map. It costs neither memory nor disk.
pub const MAP_SIZE: usize = 1 << 40;

/// The smallest map that is worth starting with, when the address space is limited.
pub const MIN_MAP_SIZE: usize = 16 << 20;
