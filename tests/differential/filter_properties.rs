//! What holds of any filter.

use std::collections::BTreeMap;

use go_compat::regexp::{SIZE_LIMIT, compile};
use go_compat::text::lossy;
use lmdb_images::model::filter::{Fields, Filter, Operator};
use proptest::prelude::*;

/// Fields by their dotted path.
#[derive(Debug)]
struct Object(BTreeMap<Vec<u8>, Vec<u8>>);

impl Fields for Object {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        self.0.get(&path.join(&b'.')).map(Vec::as_slice)
    }
}

/// Bytes that often are a filter, or nearly.
fn filter_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "a", "b", "name", "labels", ".", ",", "==", "!=", "~=", "=", "!", "~", " ", "\t", "\"",
            "\"a\"", "\"\\x61\"", "\"\\xff\"", "\"a.b\"", "/a/", "/a\\/b/", "|a|", "|", "/", "\\",
            "-", "{", "(", "é", "☃", "\u{a0}", "\u{200b}", "\0", "\n", "\u{fffd}", "^a$", "a*", "x y",
            "\"\\UFFFFFFFF\"", "\"\\ud800\"", "\"\"",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// A filter that parses, written with quotes wherever they may be.
fn well_formed() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ab]",
        "\"([a-b. ,=~!☃é]|\\\\x[0-9a-f]{2}|\\\\n|\\\\\"){0,3}\"".prop_map(|word| word),
    ];
    let value = prop_oneof![word.clone(), "[ab:+-][ab.=/^$*+-]{0,4}"];
    let test = prop_oneof![
        Just(String::new()),
        ("(==|!=|~=) ?", value).prop_map(|(operator, value)| operator + &value),
    ];
    let selector =
        (prop::collection::vec(word, 1..3), test).prop_map(|(path, test)| path.join(".") + &test);
    prop::collection::vec(selector, 1..4).prop_map(|selectors| selectors.join(","))
}

fn object() -> impl Strategy<Value = Object> {
    let value = prop_oneof![Just(Vec::new()), "[ab]{1,3}".prop_map(String::into_bytes)];
    prop::collection::btree_map("[ab](\\.[ab])?".prop_map(String::into_bytes), value, 0..5)
        .prop_map(Object)
}

/// What the language says a match is, spelled out.
fn obviously_matches(filter: &Filter, object: &Object) -> bool {
    for selectors in filter.alternatives() {
        let mut all = true;
        for selector in selectors {
            let value = object.0.get(&selector.path().join(&b'.'));
            let empty = Vec::new();
            all &= match selector.operator() {
                Operator::Present => value.is_some(),
                Operator::Equal(wanted) => value == Some(wanted),
                Operator::NotEqual(unwanted) => value.unwrap_or(&empty) != unwanted,
                Operator::Matches(pattern) => match compile(pattern.source(), SIZE_LIMIT) {
                    Ok(compiled) => compiled.matcher.is_match(&lossy(value.unwrap_or(&empty))),
                    Err(_) => false,
                },
            };
        }
        if all {
            return true;
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn parsing_never_panics(filters in prop::collection::vec(filter_like(), 0..3)) {
        match Filter::parse_all(&filters) {
            Ok(filter) => prop_assert_eq!(filter.matches_all(),
                filters.is_empty() || filters.iter().any(Vec::is_empty)),
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with("filters: parse error: ["), "{}", text);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(filter: Vec<u8>) {
        let _ = Filter::parse_all(&[filter]).map_err(|error| error.to_string());
    }

    #[test]
    fn a_printed_filter_parses_to_the_same_filter(filters in prop::collection::vec(
        prop_oneof![well_formed().prop_map(String::into_bytes), filter_like()], 0..3,
    )) {
        if let Ok(filter) = Filter::parse_all(&filters) {
            let printed = filter.to_string();
            let lines: Vec<_> = printed.split('\n').collect();
            prop_assert_eq!(Filter::parse_all(&lines), Ok(filter), "{}", printed);
        }
    }

    #[test]
    fn matching_is_what_it_should_be(
        filters in prop::collection::vec(well_formed(), 0..3),
        object in object(),
    ) {
        let filter = Filter::parse_all(&filters);
        prop_assert!(filter.is_ok(), "{:?}: {:?}", filters, filter);
        if let Ok(filter) = filter {
            prop_assert_eq!(filter.matches(&object), obviously_matches(&filter, &object));
        }
    }

    #[test]
    fn compiling_never_panics(pattern in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        "[-a-z0-9\\\\(){}\\[\\]|*+?.^$:,<>PQExp&~é]{0,20}".prop_map(String::into_bytes),
    ]) {
        if let Ok(compiled) = compile(&pattern, SIZE_LIMIT) {
            compiled.matcher.is_match("a-é\n");
        }
    }
}
