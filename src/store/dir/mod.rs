//! The folder of a store.
//!
//! - [`root`]: the folder, created closed to others, with one owner at a time; [`lock_file`]: the lock
//! - [`permissions`]: folders and files that only their owner and root may change
//! - [`filesystem`]: refusing file systems on which LMDB is not safe; [`disk_space`]: a full disk
//! - [`files`]: the names of its files
//! - [`store_id`]: the folder remembers which store it holds
//! - [`open_files`]: whether the open files are still in their place
//! - [`scratch`]: temporary folders, removed by a later command if their process was killed

pub mod disk_space;
pub mod files;
pub mod filesystem;
pub mod lock_file;
pub mod open_files;
pub mod permissions;
pub mod root;
pub mod scratch;
pub mod store_id;
