//! The admin's commands, one a file.

pub mod import;
