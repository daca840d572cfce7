//! Compares the parser of times with a table of the results of Go's `time.Parse`.

#![allow(clippy::unwrap_used, clippy::panic)]

use go_compat::rfc3339::{Time, parse};

/// The results of Go 1.26 for each text: `tests/data/go_rfc3339.go.txt` writes the table.
const TABLE: &str = include_str!("data/go_rfc3339.tsv");

#[test]
fn times_are_parsed_as_in_go() {
    let mut parsed = 0;
    for line in TABLE.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let (text, expected) = match fields.as_slice() {
            [text, "error"] => (text, None),
            [text, seconds, nanos] => (
                text,
                Some(Time { seconds: seconds.parse().unwrap(), nanos: nanos.parse().unwrap() }),
            ),
            _ => panic!("{line}"),
        };
        let text: String = serde_json::from_str(text).unwrap();
        assert_eq!(parse(&text), expected, "{text:?}");
        parsed += usize::from(expected.is_some());
    }
    assert!(parsed > 100 && TABLE.lines().count() > 2 * parsed, "the table is too small");
}
