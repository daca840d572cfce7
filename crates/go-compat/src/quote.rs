//! Go string literals. [`quote`] writes them as Go's `%q` does. [`unquote_delimited`] reads the literals of
//! containerd's filters, which allow more delimiters.

use std::fmt::{self, Write as _};

use super::charset::is_print;
use super::text::first_rune;

/// Quotes `text` as Go's `strconv.Quote` and the verb `%q` do: a double-quoted literal in which everything
/// that is not printable is escaped.
pub fn quote(text: impl AsRef<[u8]>) -> String {
    let bytes = text.as_ref();
    let mut literal = String::with_capacity(bytes.len() + 2);
    literal.push('"');
    let mut rest = bytes;
    loop {
        // Copies runs of plain characters at once: most characters need no escape, and a text may have
        // megabytes.
        let is_special = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
        let plain = rest.iter().position(is_special).unwrap_or(rest.len());
        let (plain, special) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
        literal.push_str(std::str::from_utf8(plain).unwrap_or_default());
        rest = special;
        let Some((rune, width)) = first_rune(rest) else { break };
        let (encoded, tail) = rest.split_at_checked(width).unwrap_or((rest, &[]));
        // Writing to a `String` cannot fail.
        let _ = match rune {
            Some(rune) => write_rune(&mut literal, rune),
            None => encoded.iter().try_for_each(|byte| write!(literal, "\\x{byte:02x}")),
        };
        rest = tail;
    }
    literal.push('"');
    literal
}

fn write_rune(literal: &mut String, rune: char) -> fmt::Result {
    let code = u32::from(rune);
    match rune {
        '"' | '\\' => write!(literal, "\\{rune}"),
        '\x07' => literal.write_str("\\a"),
        '\x08' => literal.write_str("\\b"),
        '\x0c' => literal.write_str("\\f"),
        '\n' => literal.write_str("\\n"),
        '\r' => literal.write_str("\\r"),
        '\t' => literal.write_str("\\t"),
        '\x0b' => literal.write_str("\\v"),
        _ if is_print(rune) => literal.write_char(rune),
        '\0'..='\x7f' => write!(literal, "\\x{code:02x}"),
        '\u{80}'..='\u{ffff}' => write!(literal, "\\u{code:04x}"),
        _ => write!(literal, "\\U{code:08x}"),
    }
}

/// The literal is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuoteError;

impl fmt::Display for QuoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("quote syntax error")
    }
}

impl std::error::Error for QuoteError {}

/// Decodes a literal of containerd's filter language into its bytes. The literal begins and ends with the
/// same delimiter: `"`, `/` or `|`. Inside, the delimiter must be escaped, and the escapes are those of a Go
/// string.
///
/// # Errors
/// If `literal` is not such a literal.
pub fn unquote_delimited(literal: &[u8]) -> Result<Vec<u8>, QuoteError> {
    let [delimiter @ (b'"' | b'/' | b'|'), inner @ .., last] = literal else {
        return Err(QuoteError);
    };
    if delimiter != last || inner.contains(&b'\n') {
        return Err(QuoteError);
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'\\' => unescape(tail, *delimiter, &mut bytes)?,
            _ if first == delimiter => return Err(QuoteError),
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    Ok(bytes)
}

/// Decodes the escape sequence at the start of `escape` and appends its bytes to `bytes`. The caller has
/// consumed the backslash. Returns the input after the sequence.
fn unescape<'l>(
    escape: &'l [u8],
    delimiter: u8,
    bytes: &mut Vec<u8>,
) -> Result<&'l [u8], QuoteError> {
    let (kind, tail) = escape.split_first().ok_or(QuoteError)?;
    let byte = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        _ if *kind == delimiter => delimiter,
        b'0'..=b'7' => {
            let (value, tail) = number(escape, 8, 3)?;
            bytes.push(u8::try_from(value).map_err(|_| QuoteError)?);
            return Ok(tail);
        }
        b'x' => {
            let (value, tail) = number(tail, 16, 2)?;
            bytes.push(u8::try_from(value).map_err(|_| QuoteError)?);
            return Ok(tail);
        }
        b'u' => return rune(number(tail, 16, 4)?, bytes),
        b'U' => return rune(number(tail, 16, 8)?, bytes),
        _ => return Err(QuoteError),
    };
    bytes.push(byte);
    Ok(tail)
}

/// Parses the first `count` digits as a number. Returns the number and the input after the digits.
fn number(digits: &[u8], radix: u32, count: usize) -> Result<(u32, &[u8]), QuoteError> {
    let (digits, tail) = digits.split_at_checked(count).ok_or(QuoteError)?;
    let value = digits.iter().try_fold(0, |value: u32, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        Some(value.wrapping_mul(radix) | digit)
    });
    Ok((value.ok_or(QuoteError)?, tail))
}

fn rune<'l>((value, tail): (u32, &'l [u8]), bytes: &mut Vec<u8>) -> Result<&'l [u8], QuoteError> {
    // containerd stores a rune in a signed 32-bit integer, and eight digits after `\U` can make it
    // negative. A negative number passes containerd's check for the largest rune and counts as a single
    // byte, so containerd appends the lowest byte only.
    if value > i32::MAX as u32 {
        let [.., lowest] = value.to_be_bytes();
        bytes.push(lowest);
        return Ok(tail);
    }
    let rune = match value {
        0xd800..=0xdfff => char::REPLACEMENT_CHARACTER,
        _ => char::from_u32(value).ok_or(QuoteError)?,
    };
    bytes.extend_from_slice(rune.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_is_not_printable() {
        for (bytes, literal) in [
            (&b"plain / text"[..], r#""plain / text""#),
            (b"\"\\", r#""\"\\""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            (b"\0\x1f\x7f", r#""\x00\x1f\x7f""#),
            (b"\xff\xe2\x98", r#""\xff\xe2\x98""#),
            ("☃\u{fffd}é".as_bytes(), "\"☃\u{fffd}é\""),
            ("\u{a0}\u{200b}\u{feff}".as_bytes(), r#""\u00a0\u200b\ufeff""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
            ("\u{10d40}".as_bytes(), r#""\U00010d40""#),
        ] {
            assert_eq!(quote(bytes), literal);
        }
    }

    #[test]
    fn unquoting_takes_go_escapes_and_three_delimiters() {
        for (literal, bytes) in [
            (r#""""#, &b""[..]),
            (r#""a\"b|/""#, b"a\"b|/"),
            (r"/a\/b|c/", b"a/b|c"),
            (r"|a\|b/c|", b"a|b/c"),
            (r#""\a\b\f\n\r\t\v\\""#, b"\x07\x08\x0c\n\r\t\x0b\\"),
            (r#""\x41\101\u0041\U00000041""#, b"AAAA"),
            (r#""\xff\377\u00ff""#, b"\xff\xff\xc3\xbf"),
            (r#""\ud800""#, b"\xef\xbf\xbd"),
            (r#""\U0010ffff""#, b"\xf4\x8f\xbf\xbf"),
            (r#""\UFFFFFFC3""#, b"\xc3"),
        ] {
            assert_eq!(unquote_delimited(literal.as_bytes()).as_deref(), Ok(bytes), "{literal}");
        }
    }

    #[test]
    fn anything_else_is_no_literal() {
        for literal in [
            "",
            "\"",
            "a",
            "\"a/",
            "'a'",
            "`a`",
            "\"\n\"",
            r#""""#.repeat(2).as_str(),
            r#""\400""#,
            r#""\U00110000""#,
            r#""\U7fffffff""#,
            r#""\q""#,
            r#""\'""#,
            r#""\/""#,
            r#""\x4""#,
            r#""\u12""#,
            r#""\"#,
        ] {
            assert_eq!(unquote_delimited(literal.as_bytes()), Err(QuoteError), "{literal}");
        }
    }
}
