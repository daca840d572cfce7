//! LMDB's file format in safe Rust: a reader that uses `pread` and checks every bound.
//!
//! - [`layout`]: the bytes; [`pages`]: where they come from
//! - [`tree`]: a walk that takes nothing for granted
//! - [`state`]: a whole state of the file: meta page, trees, free pages

pub mod layout;
pub mod pages;
pub mod state;
pub mod tree;

#[cfg(test)]
mod tests;
