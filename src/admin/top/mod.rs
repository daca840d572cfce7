//! `lmdb-images top`: figures of a running daemon, by two readings of its metrics.
//!
//! - [`mod@scrape`]: reads the metrics socket; [`figures`]: what changed between two readings

pub(crate) mod figures;
pub(crate) mod scrape;

pub(crate) use figures::Figures;
#[cfg(test)]
pub(crate) use figures::{ClientRow, Row};
pub(crate) use scrape::{Endpoint, Samples, scrape};
