//! The admin's commands, one a file; [`listed`] is how an image looks as JSON.

pub mod backup;
pub mod check;
pub mod compact;
mod containerd;
pub mod diff;
pub mod explain;
pub mod export;
pub mod file;
pub mod health;
pub mod import;
pub mod listed;
pub mod ls;
mod progress;
mod record;
pub mod recover;
pub mod restore;
pub mod stat;
