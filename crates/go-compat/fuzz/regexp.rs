//! A Go pattern and, after a newline, a text: the quoted pattern reads as the same bytes, and less memory
//! never changes a match, but may refuse the pattern.

use go_compat::quote::{quote, unquote_delimited};
use go_compat::regexp::{SIZE_LIMIT, compile};
use go_compat::text::lossy;

/// The memory of a pattern among many.
const SMALL: usize = SIZE_LIMIT / 500;

pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (pattern, text) = data.split_at(end);
    assert_eq!(unquote_delimited(quote(pattern).as_bytes()).as_deref(), Ok(pattern));
    let Ok(compiled) = compile(pattern, SIZE_LIMIT) else {
        assert!(compile(pattern, SMALL).is_err());
        return;
    };
    let text = lossy(text);
    let found = compiled.matcher.is_match(&text);
    assert!(!found || text.as_bytes().starts_with(&compiled.beginning));
    if let Ok(small) = compile(pattern, SMALL) {
        assert_eq!(small.matcher.is_match(&text), found);
    }
}
