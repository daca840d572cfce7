//! A Go pattern, and behind a newline a text to find it in.

use lmdb_images::model::filter::{Fields, Filter};
use lmdb_images::model::go::quote::quote;

/// Has one field, whatever its name.
struct Text<'t>(&'t [u8]);

impl Fields for Text<'_> {
    fn field(&self, _: &[Vec<u8>]) -> Option<&[u8]> {
        Some(self.0)
    }
}

/// See the module.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (pattern, text) = data.split_at(end);
    let one = format!("x~={}", quote(pattern));
    // Others leave less memory for it: it is refused then, or means the same.
    let some = vec![one.as_str(); 500];
    if let (Ok(one), Ok(some)) = (Filter::parse_all(&[&one]), Filter::parse_all(&some)) {
        assert!(one.matches(&Text(text)) || !some.matches(&Text(text)));
    }
}
