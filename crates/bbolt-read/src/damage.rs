//! Damage of a page.

use std::fmt;

/// Damage of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The page's number.
    pub page: u64,
    /// What is wrong with the page.
    pub what: String,
}

impl Damage {
    /// A reader of a schema says with it that a page holds a value which the schema does not allow.
    pub fn new(page: u64, what: impl Into<String>) -> Self {
        Self { page, what: what.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}: {}", self.page, self.what)
    }
}

impl std::error::Error for Damage {}

/// Bytes of a key that an error sentence shows.
const MAX_SHOWN_BYTES: usize = 256;

/// A key as an error sentence shows it.
pub(crate) fn quote(key: &[u8]) -> String {
    let shown = key.get(..MAX_SHOWN_BYTES).unwrap_or(key);
    match std::str::from_utf8(shown) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", shown.escape_ascii()),
    }
}
