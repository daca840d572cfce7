//! The admin's commands, one a file.

pub mod diff;
pub mod import;
