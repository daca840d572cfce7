//! Byte strings, decoded as in Go.
//!
//! A Go string can contain any bytes. To get runes, Go decodes UTF-8, and reads
//! each invalid byte as one U+FFFD of width one. Rust's
//! [`String::from_utf8_lossy`] differs: it makes one U+FFFD of a whole
//! truncated sequence, so `"\xe2\x98"` would be one character short.

use std::borrow::Cow;

/// The first rune of `bytes` and its width. The rune is `None`, with width 1, if
/// the first bytes are not UTF-8. Returns `None` if `bytes` is empty.
///
/// # Examples
/// `"é!"` starts with `(Some('é'), 2)`, `"\xff!"` with `(None, 1)`.
pub fn first_rune(bytes: &[u8]) -> Option<(Option<char>, usize)> {
    let first = *bytes.first()?;
    if first.is_ascii() {
        return Some((Some(char::from(first)), 1));
    }
    // No rune is longer than four bytes; a shorter prefix that is valid by
    // itself is the rune, as no rune's encoding is a prefix of another's.
    let rune = (2..=4)
        .filter_map(|width| bytes.get(..width))
        .find_map(|prefix| std::str::from_utf8(prefix).ok())
        .and_then(|text| text.chars().next());
    Some((rune, rune.map_or(1, char::len_utf8)))
}

/// `bytes` as text. Each byte that is not part of valid UTF-8 becomes one U+FFFD.
///
/// grpc-go writes a status message in this way, and Go's `regexp` reads its
/// input in this way.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(lossy_chunks(bytes)),
    }
}

fn lossy_chunks(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_byte_is_one_replacement() {
        assert_eq!(lossy(b"plain"), "plain");
        assert_eq!(lossy(b"\xe2\x98"), "\u{fffd}\u{fffd}");
        assert_eq!(lossy(b"a\xf0\x9f\x98b\xff"), "a\u{fffd}\u{fffd}\u{fffd}b\u{fffd}");
        assert_eq!(lossy(b"\xed\xa0\x80"), "\u{fffd}\u{fffd}\u{fffd}", "a surrogate");
        assert_eq!(lossy("☃".as_bytes()), "☃");
    }

    #[test]
    fn runes_and_their_widths() {
        assert_eq!(first_rune(b""), None);
        assert_eq!(first_rune(b"a"), Some((Some('a'), 1)));
        assert_eq!(first_rune("éa".as_bytes()), Some((Some('é'), 2)));
        assert_eq!(first_rune("☃".as_bytes()), Some((Some('☃'), 3)));
        assert_eq!(first_rune("😀x".as_bytes()), Some((Some('😀'), 4)));
        assert_eq!(first_rune(b"\xe2\x98"), Some((None, 1)));
        assert_eq!(first_rune(b"\xc0\x80"), Some((None, 1)));
        assert_eq!(first_rune("\u{fffd}".as_bytes()), Some((Some('\u{fffd}'), 3)));
    }
}
