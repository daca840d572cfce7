//! Plans how to find the images that match a filter without reading all of them.
//!
//! A plan is a pure function of the filter. [`crate::store::read::lookup`] runs its lookups.
//!
//! A filter is an "or" of alternatives, each an "and" of selectors. One selector that the index can look
//! up is enough for an alternative: the lookup finds *candidates*, which include all matching images,
//! and the filter then decides on each candidate. If an alternative has no such selector, all images
//! must be read, and the plan is a scan.

use std::fmt;

use go_compat::quote::quote;

use super::field::Field;
use crate::model::filter::{Filter, Operator, Selector};

/// How to find the images that match a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryPlan {
    /// Every image matches: no field is read.
    All,
    /// Read every image, because this alternative has no selector that can be looked up.
    Scan {
        /// The alternative, as a filter.
        alternative: String,
    },
    /// For every alternative that can match: its lookups, never none. Any one of them finds all images
    /// that match the alternative.
    Lookups(Vec<Vec<Lookup>>),
}

/// A lookup that the store answers without reading all records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The image of this name.
    Name(String),
    /// The images whose names begin with these bytes.
    NamePrefix(Vec<u8>),
    /// The images with this digest.
    Digest(Vec<u8>),
    /// The images whose digests begin with these bytes.
    DigestPrefix(Vec<u8>),
    /// The images with this label.
    Label {
        /// Key of the label.
        key: Vec<u8>,
        /// Value of the label.
        value: Vec<u8>,
    },
}

/// How a plan can use one selector.
enum SelectorUse {
    Lookup(Lookup),
    /// The selector matches no image.
    Never,
    /// The selector must be tested on each image.
    Test,
}

impl QueryPlan {
    /// Plans a filter.
    pub fn new(filter: &Filter) -> Self {
        if filter.matches_all() {
            return Self::All;
        }
        let mut alternatives = Vec::new();
        for selectors in filter.alternatives() {
            match lookups(selectors) {
                None => {}
                Some(none) if none.is_empty() => {
                    let selectors: Vec<_> = selectors.iter().map(Selector::to_string).collect();
                    return Self::Scan { alternative: selectors.join(",") };
                }
                Some(some) => alternatives.push(some),
            }
        }
        Self::Lookups(alternatives)
    }
}

/// Returns the lookups of an alternative; `None` if it never matches.
fn lookups(selectors: &[Selector]) -> Option<Vec<Lookup>> {
    let mut found = Vec::new();
    for selector in selectors {
        match selector_use(selector) {
            SelectorUse::Lookup(lookup) => found.push(lookup),
            SelectorUse::Never => return None,
            SelectorUse::Test => {}
        }
    }
    Some(found)
}

fn selector_use(selector: &Selector) -> SelectorUse {
    let field = Field::at(selector.path());
    match (selector.operator(), field) {
        (Operator::Present | Operator::Equal(_), None) => SelectorUse::Never,
        (Operator::Equal(value), Some(field)) => equality_use(field, value),
        (Operator::Matches(pattern), field) => match (pattern.literal_prefix(), field) {
            // A pattern that does not compile matches nothing.
            (None, _) => SelectorUse::Never,
            (Some([]), _) => SelectorUse::Test,
            (Some(prefix), Some(Field::Name)) => {
                SelectorUse::Lookup(Lookup::NamePrefix(prefix.to_vec()))
            }
            (Some(prefix), Some(Field::Digest)) => {
                SelectorUse::Lookup(Lookup::DigestPrefix(prefix.to_vec()))
            }
            _ => SelectorUse::Test,
        },
        (Operator::Present | Operator::NotEqual(_), _) => SelectorUse::Test,
    }
}

fn equality_use(field: Field<'_>, value: &[u8]) -> SelectorUse {
    match field {
        // An empty field is absent and equals no value.
        Field::Name | Field::Digest | Field::MediaType if value.is_empty() => SelectorUse::Never,
        // Stored values are UTF-8.
        _ if std::str::from_utf8(value).is_err() => SelectorUse::Never,
        Field::Name => {
            SelectorUse::Lookup(Lookup::Name(String::from_utf8_lossy(value).into_owned()))
        }
        Field::Digest => SelectorUse::Lookup(Lookup::Digest(value.to_vec())),
        Field::Label(key) => {
            SelectorUse::Lookup(Lookup::Label { key: key.joined(), value: value.to_vec() })
        }
        Field::MediaType | Field::Annotation(_) => SelectorUse::Test,
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "the name {}", quote(name)),
            Self::NamePrefix(prefix) => write!(f, "names that begin with {}", quote(prefix)),
            Self::Digest(digest) => write!(f, "the digest {}", quote(digest)),
            Self::DigestPrefix(prefix) => write!(f, "digests that begin with {}", quote(prefix)),
            Self::Label { key, value } => {
                write!(f, "the label {} with the value {}", quote(key), quote(value))
            }
        }
    }
}

impl fmt::Display for QueryPlan {
    /// Formats the plan on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alternatives = match self {
            Self::All => return f.write_str("all images"),
            Self::Scan { alternative } => return write!(f, "a scan for {alternative}"),
            Self::Lookups(alternatives) => alternatives,
        };
        if alternatives.is_empty() {
            return f.write_str("nothing: no image can match");
        }
        for (index, lookups) in alternatives.iter().enumerate() {
            f.write_str(if index > 0 { "; and " } else { "" })?;
            for (index, lookup) in lookups.iter().enumerate() {
                write!(f, "{}{lookup}", if index > 0 { " or " } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(filters: &[&str]) -> String {
        QueryPlan::new(&Filter::parse_all(filters).unwrap()).to_string()
    }

    #[test]
    fn one_filter() {
        for (filter, expected) in [
            ("", "all images"),
            ("name==a", r#"the name "a""#),
            ("name.x==a", r#"the name "a""#),
            ("name", "a scan for name"),
            ("name!=a", "a scan for name!=a"),
            ("name==\"\"", "nothing: no image can match"),
            (r#"name=="\xff""#, "nothing: no image can match"),
            ("target.digest==sha256:a", r#"the digest "sha256:a""#),
            ("target.digest~=^sha256:a", r#"digests that begin with "sha256:a""#),
            ("target.mediatype==a", "a scan for target.mediatype==a"),
            ("target==a", "nothing: no image can match"),
            ("other==a", "nothing: no image can match"),
            ("other", "nothing: no image can match"),
            ("other!=a", "a scan for other!=a"),
            ("other~=^a", "a scan for other~=\"^a\""),
            ("labels.a==b", r#"the label "a" with the value "b""#),
            ("labels.a.b.\"c.d\"==\"\"", r#"the label "a.b.c.d" with the value """#),
            ("labels==x", r#"the label "" with the value "x""#),
            ("labels.a~=^b", "a scan for labels.a~=\"^b\""),
            ("annotations.a==b", "a scan for annotations.a==b"),
            ("name~=(", "nothing: no image can match"),
        ] {
            assert_eq!(plan(&[filter]), expected, "{filter}");
        }
    }

    #[test]
    fn a_plan_needs_one_lookup_of_each_alternative() {
        for (filters, expected) in [
            (&["name==a,labels.b==c"][..], r#"the name "a" or the label "b" with the value "c""#),
            (&["name!=a,labels.b==c"], r#"the label "b" with the value "c""#),
            (&["name==a,other==b"], "nothing: no image can match"),
            (&["name==a", "name==b"], r#"the name "a"; and the name "b""#),
            (&["name==a", "name~=b"], "a scan for name~=b"),
            (&["name==a", "other==b"], r#"the name "a""#),
            (&["name==a", ""], "all images"),
        ] {
            assert_eq!(plan(filters), expected, "{filters:?}");
        }
    }

    #[test]
    fn a_prefix_is_what_every_match_begins_with() {
        for (pattern, expected) in [
            ("^docker", Some("docker")),
            (r"^docker\.io/a", Some("docker.io/a")),
            ("^docker.io/a", Some("docker")),
            ("^abc?", Some("ab")),
            ("^abc*", Some("ab")),
            ("^abc+", Some("abc")),
            ("^(abd|abc)", Some("ab")),
            ("^abd|^abc", Some("ab")),
            ("^abd|abc", None),
            ("(^a|^b)c", None),
            ("(^aa|^ab)c", Some("a")),
            ("^a|", None),
            ("^(?i)ab", None),
            ("^(?i)1b", Some("1")),
            ("^(?i:1)2", Some("12")),
            ("(?m)^ab", None),
            (r"\Aab", Some("ab")),
            (r"(?m)\Aab", Some("ab")),
            ("ab", None),
            ("a^b", None),
            ("^^ab$", Some("ab")),
            ("^a{3}b", Some("aaab")),
            ("^(?:a{2}){2}", Some("aaaa")),
            ("^é", Some("é")),
            (r"^\Qa.b\E", Some("a.b")),
            (r"^ab\B", Some("ab")),
            ("^", None),
            ("x*^ab", None),
        ] {
            let expected = match expected {
                Some(prefix) => format!("names that begin with {}", quote(prefix)),
                None => format!("a scan for name~={}", quote(pattern)),
            };
            let filter = format!("name~={}", quote(pattern));
            let found = plan(&[&filter]);
            let same =
                found == expected || found.starts_with("a scan") && expected.starts_with("a scan");
            assert!(same, "{pattern}: {found}, not {expected}");
        }
    }
}
