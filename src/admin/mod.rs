//! The admin commands, one file each. [`image_json`] is the JSON form of an image record.

pub mod backup;
pub mod batch;
pub mod catalog;
pub mod change_json;
pub mod check;
pub mod compact;
mod containerd;
pub mod count;
pub mod diff;
pub mod explain;
pub mod export;
pub(crate) mod file;
pub mod health;
pub mod history;
pub(crate) mod image_json;
pub mod import;
pub mod ls;
mod progress;
mod record;
pub mod recover;
pub mod rescue;
pub mod restore;
pub mod stat;
pub mod watch;
