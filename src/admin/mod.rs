//! The admin commands, one file each. [`image_json`] is the JSON form of an image record.

pub(crate) mod backup;
pub mod check;
pub(crate) mod compact;
mod containerd;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod file;
pub mod health;
pub(crate) mod image_json;
pub mod import;
pub(crate) mod ls;
mod progress;
mod record;
pub mod recover;
pub(crate) mod restore;
pub(crate) mod stat;
