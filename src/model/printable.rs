//! Escapes external text for terminals and logs: names, labels, arguments, paths, errors of other
//! programs.
//!
//! A terminal obeys control characters, and characters that are invisible or change the writing
//! direction mislead a reader. All output and all log lines pass through this module. The escapes are
//! those of JSON, so escaping does not change the meaning of a JSON document.

use std::borrow::Cow;
use std::fmt::Write as _;

use go_compat::charset::is_print;

/// Length from which a word of a sentence is shortened: it is then a value, too long to be read.
const MAX_WORD_CHARS: usize = 240;

/// Length from which a sentence is shortened: it then repeats too much input.
const MAX_SENTENCE_CHARS: usize = 4000;

/// Returns true if the character is visible and not a control character.
pub fn is_visible(c: char) -> bool {
    is_print(c) && !is_blank(c)
}

/// Returns true for invisible characters that Unicode counts as letters, marks or symbols: fillers,
/// joiners, selectors.
fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
    )
}

/// Replaces every invisible character, line ends included, with its JSON escape.
///
/// # Examples
/// `"a\nb"` becomes `a\nb` (four characters), U+202E becomes `\u202e`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if is_visible(c) => line.push(c),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(line)
}

/// Shortens a text to about `max` characters: keeps the beginning and the end, and puts the number of
/// omitted characters between them.
pub fn shortened(text: &str, max: usize) -> Cow<'_, str> {
    // A text has no more characters than bytes, so there is nothing to count.
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let count = text.chars().count();
    if count <= max {
        return Cow::Borrowed(text);
    }
    let (head, tail) = (max * 2 / 3, max / 3);
    let start = text.char_indices().nth(head).map_or(text.len(), |(at, _)| at);
    let end = text.char_indices().nth(count - tail).map_or(text.len(), |(at, _)| at);
    let (head_text, rest) = text.split_at(start);
    let tail_text = rest.get(end.saturating_sub(start)..).unwrap_or_default();
    Cow::Owned(format!("{head_text}…[{} characters]…{tail_text}", count - head - tail))
}

/// Makes one line of a sentence: shortens long values in the middle and escapes invisible characters.
pub(crate) fn one_line(sentence: &str) -> String {
    let words: Vec<_> = sentence.split(' ').map(|word| shortened(word, MAX_WORD_CHARS)).collect();
    escaped(&shortened(&words.join(" "), MAX_SENTENCE_CHARS)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        for plain in ["docker.io/library/a:1", "ü ☃ 😀", "a \\ \"b\"", ""] {
            assert_eq!(escaped(plain), plain);
        }
        let controls = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}');
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter();
        let bidi = bidi.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        let lines = ['\u{2028}', '\u{2029}'].into_iter();
        let invisible = ['\u{ad}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{2060}', '\u{feff}'];
        let fillers = ['\u{34f}', '\u{115f}', '\u{3164}', '\u{fe0f}', '\u{ffa0}', '\u{e0001}'];
        for c in controls.chain(bidi).chain(lines).chain(invisible).chain(fillers) {
            let line = escaped(&format!("a{c}b")).into_owned();
            assert!(line.chars().all(|c| matches!(c, ' '..='~')), "{c:?}: {line}");
            let json: String = serde_json::from_str(&format!("\"{line}\"")).unwrap();
            assert_eq!(json, format!("a{c}b"));
        }
        assert_eq!(escaped("\u{1b}[m\u{9b}\u{e0001}"), r"\u001b[m\u009b\udb40\udc01");
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let text = format!("begin{}end", "é".repeat(1000));
        let short = shortened(&text, 30);
        assert!(short.starts_with("begin") && short.ends_with("end"), "{short}");
        assert!(short.contains("…[978 characters]…"), "{short}");
        assert_eq!(shortened("é", 1), "é");
        assert_eq!(shortened("12345", 5), "12345");
    }

    #[test]
    fn a_sentence_keeps_its_words_and_loses_the_middle_of_long_values() {
        let sentence = format!("image {} is\nnot there", "x".repeat(32 << 10));
        let line = one_line(&sentence);
        assert!(line.starts_with("image xxx") && line.ends_with(r"x is\nnot there"), "{line}");
        assert!(line.len() < 400, "{line}");
        assert!(one_line(&"\0 ".repeat(100_000)).len() < 40_000);
    }
}
