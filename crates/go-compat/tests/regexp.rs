//! Holds the pattern translation to a table of what Go's `regexp` answered.
//!
//! The table was made with Go 1.19, the cases where Go 1.26 differs left out;
//! those are below. A line is a pattern and why it is an error, or `ok`, a text
//! and whether the pattern matches it. Patterns and texts are Go literals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use go_compat::quote::unquote_delimited;
use go_compat::regexp::{SIZE_LIMIT, compile};
use go_compat::text::lossy;

#[test]
fn patterns_have_the_meaning_of_go() {
    let table = include_str!("data/go_regexp.tsv");
    let bytes = |literal: &str| unquote_delimited(literal.as_bytes()).expect("a literal");
    let (mut accepted, mut refused) = (0, 0);
    for line in table.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        match (fields.as_slice(), compile(&bytes(fields[0]), SIZE_LIMIT)) {
            ([_, "ok", text, expected], Ok(compiled)) => {
                let text = bytes(text);
                let found = compiled.matcher.is_match(&lossy(&text));
                assert_eq!(found.to_string(), *expected, "{line}");
                let text = lossy(&text).into_owned().into_bytes();
                assert!(!found || text.starts_with(&compiled.beginning), "{line}");
                accepted += 1;
            }
            ([_, reason], Err(error)) => {
                assert_eq!(error.to_string(), *reason, "{line}");
                refused += 1;
            }
            (_, result) => panic!("{line}: {result:?}"),
        }
    }
    assert!(accepted > 300 && refused > 100, "{accepted} and {refused}");
}

/// Go 1.22 took up `(?<name>…)`; Go 1.25 names more properties, and finds them
/// loosely, but no longer scripts of two words.
#[test]
fn later_versions_of_go_differ() {
    for (pattern, text, expected) in [
        ("(?<n>a)", "a", Some(true)),
        ("(?<n>a)(?<n>b)", "b", Some(false)),
        (r"\p{Letter}", "a", Some(true)),
        (r"\p{uppercase letter}", "a", Some(false)),
        (r"\pl", "é", Some(true)),
        (r"\p{LC}", "a", Some(true)),
        (r"\p{ascii}", "é", Some(false)),
        (r"(?i)\p{ASCII}", "ſ", Some(true)),
        (r"\p{Assigned}", "\u{378}", Some(false)),
        (r"\p{Cn}", "\u{378}", Some(true)),
        (r"\pC", "\u{378}", Some(true)),
        (r"\p{^Cn}", "a", Some(true)),
        (r"\p{GREEK}", "α", Some(true)),
        (r"\p{Kawi}", "\u{11f00}", Some(true)),
        // Assigned in Unicode 16.0 only.
        (r"\pL", "\u{105c0}", Some(false)),
        (r"\p{Old_Italic}", "", None),
        (r"\p{SignWriting}", "", None),
        (r"\p{Todhri}", "", None),
    ] {
        let found =
            compile(pattern.as_bytes(), SIZE_LIMIT).map(|compiled| compiled.matcher.is_match(text));
        assert_eq!(found.ok(), expected, "{pattern}");
    }
}
