//! Finds a value at the top of a file of YAML, or of JSON, which is YAML, too.

use std::borrow::Cow;

use go_compat::quote::quote;
use saphyr_parser::{Event, Parser, ScalarStyle};

/// The value of a key of the mapping at the top of the first document; `None` if the mapping has no such key. A null is the
/// empty text. The file is read as events, so aliases are not expanded, and a deep nesting takes no stack.
///
/// # Errors
/// The reason why the file cannot be parsed, or why the value is no text.
pub(super) fn top_value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut depth = 0_usize;
    // Keys and values alternate at the top.
    let (mut is_key, mut is_sought) = (true, false);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| e.to_string())?;
        let is_node = matches!(
            event,
            Event::Scalar(..)
                | Event::Alias(_)
                | Event::MappingStart(..)
                | Event::SequenceStart(..)
        );
        if is_node && depth == 1 {
            if is_sought {
                return scalar(event).map(Some).ok_or_else(|| format!("{key} is no text"));
            }
            is_sought = is_key && scalar(event.clone()).as_deref() == Some(key);
            is_key = !is_key;
        }
        match event {
            // A file without a value has no keys.
            Event::Scalar(text, ..) if depth == 0 && text.is_empty() => {}
            Event::Scalar(..) | Event::SequenceStart(..) if depth == 0 => {
                return Err(format!(
                    "it has no mapping at its top, but {}",
                    quote(first_line(text))
                ));
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            Event::DocumentEnd => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// The text of a scalar.
fn scalar(event: Event<'_>) -> Option<String> {
    let Event::Scalar(text, style, ..) = event else { return None };
    let is_null = style == ScalarStyle::Plain && matches!(&*text, "~" | "null" | "Null" | "NULL");
    Some(if is_null { String::new() } else { Cow::into_owned(text) })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_every_form_that_yaml_has() {
        for text in [
            "a: 1\nkey: x y\n",
            "# a comment\n\n---\nkey: x y # another\n",
            "key: x y\t# after a tab\n",
            "key:\n  x y\n",
            "key: >-\n  x\n  y\n",
            "  a: {key: 1}\n  key: x y\n",
            "\"key\": 'x y'\n",
            "'key' : \"x\\x20y\"\n",
            "? key\n: x y\n",
            "key: &anchor x y\n",
            "{\"a\": [{\"key\": 1}], \"key\": \"x y\"}",
            "# comment\n{a: key, key: x y}",
            "a:\n- key: 1\nkey: x y\n---\nkey: other\n",
        ] {
            assert_eq!(top_value(text, "key"), Ok(Some("x y".into())), "{text}");
        }
        assert_eq!(top_value("key: 'it''s'", "key"), Ok(Some("it's".into())));
    }

    #[test]
    fn a_null_is_empty_and_another_key_is_none() {
        for null in ["key:", "key: ~", "key: null", "key: ''", "{key: null}"] {
            assert_eq!(top_value(null, "key"), Ok(Some(String::new())), "{null}");
        }
        for none in ["", "# comment", "a: key", "a:\n  key: 1", "keys: 1", "---\na: 1\n---\nkey: 1"]
        {
            assert_eq!(top_value(none, "key"), Ok(None), "{none}");
        }
    }

    #[test]
    fn a_value_that_is_no_text_and_a_wrong_file_are_errors() {
        for text in ["key: [x]", "key: {a: b}", "a: &x 1\nkey: *x"] {
            assert_eq!(top_value(text, "key"), Err("key is no text".into()), "{text}");
        }
        for (text, why) in [("- key", "no mapping"), ("text", "but \"text\""), ("key: 'x", "")] {
            let error = top_value(text, "key").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(top_value(&format!("a: {deep}"), "key").is_err());
    }
}
