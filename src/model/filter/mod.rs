//! containerd's filter language, as of containerd 2.3.4 (`pkg/filters`).
//!
//! ```text
//! filter    := "" | selector ("," selector)*
//! selector  := fieldpath [ operator value ]
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="
//! value     := quoted | visible runes other than ","
//! quoted    := a Go string literal between " and ", or, as the value of "~="
//!              only, between / and / or | and |
//! ```
//!
//! An image matches a request if it matches at least one of its filters, and a
//! filter if it matches all of its selectors. A request without filters, or with
//! an empty filter, matches everything. A filter of only white space is an error.
//!
//! White space is skipped before a token, except where the grammar looks ahead
//! for `,` `.` or the end: `a == b` parses, `a==b ,c` does not. An unquoted
//! value cannot begin with `.`, a quote or an operator rune, which come out as
//! tokens of their own.
//!
//! Both values and field names are bytes, as a literal may spell any (`"\xff"`).
//!
//! The regular expressions of `~=` are Go's; see [`regexp`]. One that does not
//! compile is no parse error: such a selector matches nothing, and is logged
//! here, rather than for each object as containerd does.
//!
//! The language does not define the fields of an object: its [`Fields`] do.

mod fields;
mod parser;
mod scanner;
mod selector;

use std::convert::Infallible;
use std::fmt;

use fields::MAX_FIELDS;
use go_compat::regexp;
use go_compat::regexp::RegexpError;

pub use fields::Fields;
pub(crate) use parser::ParseError;
pub use selector::Operator;
pub(crate) use selector::{Pattern, Selector};

/// Memory in bytes for all compiled regular expressions of one request.
const MAX_REGEXPS_BYTES: usize = 16 << 20;
/// Memory in bytes for one compiled regular expression.
const MAX_REGEXP_BYTES: usize = regexp::SIZE_LIMIT;

/// Memory in bytes for one selector, or for one name in its path, beside their text.
const MAX_PARSED_PART_BYTES: usize = 192;

/// Number of regular expressions in all filters of a request together.
const MAX_PATTERNS: usize = 1000;

/// The filters of a request. An object matches if any of them matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Never empty. A filter that matches everything has one empty conjunction.
    alternatives: Vec<Vec<Selector>>,
}

impl Filter {
    /// Parses the filters of a request and compiles their regular expressions. An empty slice matches
    /// everything.
    ///
    /// # Errors
    /// The first filter that does not parse fails them all.
    pub fn parse_all<S: AsRef<[u8]>>(filters: &[S]) -> Result<Filter, ParseError> {
        let mut filter = Self::parse(filters)?;
        match filter.compile(usize::MAX, &mut || Ok::<_, Infallible>(())) {
            Ok(_) => Ok(filter),
            Err(never) => match never {},
        }
    }

    /// As [`parse_all`](Self::parse_all), but leaves the regular expressions uncompiled: compiling may
    /// take long.
    ///
    /// # Errors
    /// The first filter that does not parse fails them all.
    pub fn parse<S: AsRef<[u8]>>(filters: &[S]) -> Result<Filter, ParseError> {
        if filters.len() > MAX_FIELDS {
            let message = format!("{} filters are more than {MAX_FIELDS}", filters.len());
            return Err(ParseError::too_many(message));
        }
        let mut fields = MAX_FIELDS;
        let mut alternatives = Vec::with_capacity(filters.len());
        for filter in filters {
            alternatives.push(match filter.as_ref() {
                [] => Vec::new(),
                text => parser::parse(text, &mut fields)?,
            });
        }
        if filters.is_empty() || alternatives.iter().any(Vec::is_empty) {
            return Ok(Filter { alternatives: vec![Vec::new()] });
        }
        let filter = Filter { alternatives };
        let patterns = filter.patterns().count();
        if patterns > MAX_PATTERNS {
            let message = format!("{patterns} regular expressions are more than {MAX_PATTERNS}");
            return Err(ParseError::too_many(message));
        }
        Ok(filter)
    }

    /// Compiles every regular expression within the memory for all of them. Calls `step` before each.
    /// Returns false if they take more than `memory` bytes. That says nothing about the expressions:
    /// with more memory they may compile.
    ///
    /// # Errors
    /// The errors of `step`.
    pub fn compile<E>(
        &mut self,
        memory: usize,
        step: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let share = (MAX_REGEXPS_BYTES / self.patterns().count().max(1)).min(MAX_REGEXP_BYTES);
        let mut left = memory;
        for selector in self.alternatives.iter_mut().flatten() {
            if let Operator::Matches(pattern) = &mut selector.operator {
                step()?;
                let is_last_word = left >= share;
                match pattern.compile(share.min(left)) {
                    Ok(()) => left = left.saturating_sub(pattern.memory()),
                    Err(RegexpError::TooLarge) if !is_last_word => return Ok(false),
                    Err(error) => pattern.log(&error),
                }
            }
        }
        Ok(true)
    }

    /// Upper bound of the memory in bytes of a filter that is parsed from these texts, and not compiled.
    pub(crate) fn parsed_size<S: AsRef<[u8]>>(filters: &[S]) -> usize {
        // A comma begins a selector, and a dot a name in a path.
        let parts = |text: &[u8]| text.iter().filter(|byte| matches!(byte, b',' | b'.')).count();
        let size = |text: &[u8]| text.len() + (1 + parts(text)) * MAX_PARSED_PART_BYTES;
        filters.iter().map(|filter| size(filter.as_ref())).sum()
    }

    /// Returns true if the filter matches `object`.
    pub fn matches<F: Fields + ?Sized>(&self, object: &F) -> bool {
        match self.try_matches(object, &mut || Ok::<_, Infallible>(())) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    /// As [`matches`](Self::matches), but calls `step` before each piece of work. The pieces are short for
    /// any filter and any object, so `step` can stop a long match.
    ///
    /// # Errors
    /// The errors of `step`.
    pub(crate) fn try_matches<F: Fields + ?Sized, E>(
        &self,
        object: &F,
        step: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        'alternatives: for selectors in &self.alternatives {
            for selector in selectors {
                if !selector.try_matches(object, step)? {
                    continue 'alternatives;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Upper bound of the filter's memory in bytes.
    pub fn memory(&self) -> usize {
        let selectors = self.alternatives.iter().flatten().map(Selector::memory).sum::<usize>();
        selectors + self.alternatives.len() * size_of::<Vec<Selector>>()
    }

    fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.alternatives.iter().flatten().filter_map(|selector| match &selector.operator {
            Operator::Matches(pattern) => Some(pattern),
            _ => None,
        })
    }

    /// Returns true if the filter matches every object.
    pub fn matches_all(&self) -> bool {
        self.alternatives.iter().any(Vec::is_empty)
    }

    /// The selectors of each filter. An object matches if all selectors of one filter match.
    pub fn alternatives(&self) -> &[Vec<Selector>] {
        &self.alternatives
    }
}

impl fmt::Display for Filter {
    /// Prints each filter on a line of its own: literals never contain a newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, selectors) in self.alternatives.iter().enumerate() {
            if line > 0 {
                f.write_str("\n")?;
            }
            for (index, selector) in selectors.iter().enumerate() {
                let separator = if index > 0 { "," } else { "" };
                write!(f, "{separator}{selector}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object as a list of dotted paths and values.
    struct Object(&'static [(&'static str, &'static str)]);

    impl Fields for Object {
        fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
            let path = path.join(&b'.');
            let found = self.0.iter().find(|(name, _)| name.as_bytes() == path);
            found.map(|(_, value)| value.as_bytes())
        }
    }

    const OBJECT: Object = Object(&[("name", "alpine"), ("labels.os", "linux"), ("empty", "")]);

    fn parse(filters: &[&str]) -> Filter {
        Filter::parse_all(filters).expect("filters that parse")
    }

    #[test]
    fn one_selector() {
        for (filter, expected) in [
            ("name", true),
            ("labels", false),
            ("name==alpine", true),
            ("name==alp", false),
            ("labels.os!=linux", false),
            ("labels.os!=windows", true),
            ("labels.\"os\"==\"linux\"", true),
            ("name~=^alp", true),
            ("name~=/p.n/", true),
            ("name~=^p", false),
            ("name~=(", false),
        ] {
            assert_eq!(parse(&[filter]).matches(&OBJECT), expected, "{filter}");
        }
    }

    #[test]
    fn absent_fields_compare_as_empty_but_are_not_equal_to_it() {
        for (filter, expected) in [
            ("absent", false),
            ("absent==\"\"", false),
            ("empty==\"\"", true),
            ("absent!=\"\"", false),
            ("absent!=x", true),
            ("absent~=^$", true),
            ("absent~=x", false),
        ] {
            assert_eq!(parse(&[filter]).matches(&OBJECT), expected, "{filter}");
        }
    }

    #[test]
    fn an_object_matches_any_filter_and_all_selectors_of_it() {
        assert!(parse(&["name==x", "name==alpine"]).matches(&OBJECT));
        assert!(!parse(&["name==alpine,labels.os==x"]).matches(&OBJECT));
        assert!(parse(&["name==alpine,labels.os==linux"]).matches(&OBJECT));
    }

    #[test]
    fn a_request_without_filters_matches_all() {
        assert!(parse(&[]).matches_all());
        assert!(parse(&["name==x", ""]).matches_all());
        assert!(parse(&["name==x", ""]).matches(&OBJECT));
        assert!(!parse(&["name"]).matches_all());
        assert!(Filter::parse_all(&["", "="]).is_err(), "an empty filter hides no error");
    }

    #[test]
    fn the_filters_of_a_request_are_bounded() {
        let parsed = |filters: &[String]| Filter::parse_all(filters).map_err(|e| e.to_string());
        let fields = |separator: &str, count: usize| vec![vec!["a"; count].join(separator)];
        let patterns = |count: usize| vec!["a~=b".to_owned(); count];
        for fine in [fields(",", MAX_FIELDS), fields(".", MAX_FIELDS), patterns(MAX_PATTERNS)] {
            assert!(parsed(&fine).is_ok());
        }
        for (beyond, why) in [
            (fields(",", MAX_FIELDS + 1), "more than 32768 fields are asked for"),
            (fields(".", MAX_FIELDS + 1), "more than 32768 fields are asked for"),
            (vec!["a".to_owned(); MAX_FIELDS + 1], "32769 filters are more than 32768"),
            (patterns(MAX_PATTERNS + 1), "1001 regular expressions are more than 1000"),
        ] {
            assert_eq!(parsed(&beyond), Err(format!("filters: parse error: []: {why}")));
        }
    }

    #[test]
    fn printing_quotes_what_needs_it() {
        for (filter, printed) in [
            ("a.b", "a.b"),
            (r#"a."b.c"==x-1"#, r#"a."b.c"=="x-1""#),
            (r"a~=/\/\\d/", r#"a~="/\\d""#),
            (r#"a!="\xff\u0000\ufffd\u2603\n""#, "a!=\"\\xff\\x00\\xef\\xbf\\xbd☃\\x0a\""),
            (r#"a=="""#, r#"a=="""#),
        ] {
            assert_eq!(parse(&[filter]).to_string(), printed);
            assert_eq!(parse(&[printed]), parse(&[filter]));
        }
        assert_eq!(parse(&["a", "b~=c,d"]).to_string(), "a\nb~=c,d");
        assert_eq!(parse(&[]).to_string(), "");
    }

    #[test]
    fn values_that_are_not_text_match_byte_by_byte() {
        struct Raw;
        impl Fields for Raw {
            fn field(&self, _: &[Vec<u8>]) -> Option<&[u8]> {
                Some(b"\xe2\x98")
            }
        }
        assert!(parse(&[r#"x=="\xe2\x98""#]).matches(&Raw));
        assert!(parse(&["x~=/^..$/"]).matches(&Raw));
    }
}
