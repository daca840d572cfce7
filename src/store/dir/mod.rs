//! The folder of a store.
//!
//! - [`root`]: the folder, created closed to others, with one owner at a time; [`lock_file`]: the lock
//! - [`permissions`]: folders and files that only their owner and root may change
//! - [`filesystem`]: refusing file systems on which LMDB is not safe; [`disk_space`]: a full disk
//! - [`files`]: the names of its files
//! - [`store_id`]: the folder remembers which store it holds
//! - [`open_files`]: whether the open files are still in their place
//! - [`scratch`]: temporary folders, removed by a later command if their process was killed

pub(crate) mod disk_space;
pub(crate) mod files;
pub(crate) mod filesystem;
pub(crate) mod lock_file;
pub(crate) mod open_files;
pub(crate) mod permissions;
pub(crate) mod root;
pub(crate) mod scratch;
pub(crate) mod store_id;
