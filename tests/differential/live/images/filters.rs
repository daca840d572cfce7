//! Random filters: by the grammar, with something broken in them, and no filters at all.

use crate::live::text;
use crate::support::random::{Draw, Rng};

pub fn filter(r: &mut Rng, names: &[String]) -> String {
    match r.usize(..10) {
        0 => text::odd(r, 8),
        1..4 => broken(r, names),
        _ => by_grammar(r, names),
    }
}

fn by_grammar(r: &mut Rng, names: &[String]) -> String {
    let selectors: Vec<String> = (0..r.one(&[1, 1, 1, 2, 3])).map(|_| selector(r, names)).collect();
    selectors.join(",")
}

/// A filter with a few pieces put in, left out or doubled.
fn broken(r: &mut Rng, names: &[String]) -> String {
    let mut chars: Vec<String> = by_grammar(r, names).chars().map(String::from).collect();
    for _ in 0..r.usize(1..=3) {
        let at = r.usize(..chars.len().max(1)).min(chars.len());
        match r.usize(..3) {
            0 => chars.insert(at, text::odd(r, 2)),
            1 if at < chars.len() => drop(chars.remove(at)),
            _ if at < chars.len() => chars.insert(at, chars[at].clone()),
            _ => {}
        }
    }
    chars.concat()
}

fn selector(r: &mut Rng, names: &[String]) -> String {
    let path = path(r);
    let space = |r: &mut Rng| if r.chance(10) { " " } else { "" };
    let (before, behind) = (space(r), space(r));
    match r.usize(..10) {
        0 | 1 => path,
        2..5 => format!("{path}{before}=={behind}{}", value(r, names, &path)),
        5 | 6 => format!("{path}{before}!={behind}{}", value(r, names, &path)),
        _ => {
            let pattern = pattern(r);
            let quoted = match r.usize(..4) {
                0 => pattern,
                1 => quoted(&pattern),
                2 => format!("/{}/", pattern.replace('/', "\\/")),
                _ => format!("|{}|", pattern.replace('|', "\\|")),
            };
            format!("{path}{before}~={behind}{quoted}")
        }
    }
}

fn path(r: &mut Rng) -> String {
    match r.usize(..10) {
        0..3 => "name".into(),
        3 => r.one(&["target.digest", "target.mediatype"]).into(),
        4..7 => {
            let key = r.one(&text::KEYS[..5]);
            format!("labels.{}", if r.chance(50) { quoted(key) } else { (*key).into() })
        }
        7 | 8 => {
            let key = r.one(text::KEYS);
            format!("annotations.{}", if r.chance(70) { quoted(key) } else { (*key).into() })
        }
        _ => r
            .one(&[
                "target",
                "labels",
                "annotations",
                "name.x",
                "target.size",
                "target.digest.x",
                "x",
                "created_at",
                "\"name\"",
                "\"labels.a\"",
                "labels.\"\\x61\"",
                "labels.a.b.c",
                "labels.\"a.b\"",
                "labels.x.\"y.z\"",
                "\"\"",
                "labels.\"\"",
                "Name",
            ])
            .into(),
    }
}

fn value(r: &mut Rng, names: &[String], path: &str) -> String {
    // Mostly what may be there.
    if r.chance(60) {
        return quoted(&match path.split('.').next() {
            Some("labels" | "annotations") => r.one(text::VALUES).to_owned(),
            Some("target") => text::digest(r),
            _ => r.one(names),
        });
    }
    match r.usize(..10) {
        0..3 => quoted(&r.one(names)),
        3 => r.one(names),
        4 => quoted(&text::digest(r)),
        5 => text::digest(r),
        6 => text::odd(r, 3),
        _ => r
            .one(&[
                "1",
                "2",
                "v",
                "m",
                "é",
                "\"é\"",
                "\"\"",
                "\"\\u00e9\"",
                "\"\\xff\"",
                "\"\\303\\251\"",
                "\"\\n\"",
                "\"\\q\"",
                "'v'",
                "`v`",
                "/v/",
                "|v|",
                "docker.io/library/alpine",
                "\"a\\tb\"",
                "\"\\U0010ffff\"",
                "\"\\ud800\"",
                "v\"",
                "\"v",
                "-",
                "*",
            ])
            .into(),
    }
}

/// A regular expression of Go's, or nearly one.
fn pattern(r: &mut Rng) -> String {
    const PIECES: [&str; 58] = [
        "a",
        "b",
        "p",
        "v",
        "é",
        "日",
        ".",
        ".*",
        "a*",
        "a+",
        "a?",
        "a*?",
        "a{2}",
        "a{2,}",
        "a{1,3}",
        "a{,2}",
        "a{3,1}",
        "a{1001}",
        "p{380}",
        "^",
        "$",
        "|",
        "(",
        ")",
        "(?i)A",
        "(?s).",
        "(?m)^a$",
        "(?U)a+",
        "(?-i)a",
        "(?P<n>a)",
        "(?<n>a)",
        "(?:a|b)",
        "[a-z]",
        "[^a]",
        "[]a]",
        "[z-a]",
        "[[:alpha:]]",
        "[[:foo:]]",
        "[a&&b]",
        "\\d",
        "\\D",
        "\\w",
        "\\s",
        "\\b",
        "\\B",
        "\\pL",
        "\\p{Greek}",
        "\\p{Foo}",
        "\\A",
        "\\z",
        "\\Z",
        "\\C",
        "\\x61",
        "\\x{e9}",
        "\\Qa.b\\E",
        "\\1",
        "\\",
        "**",
    ];
    (0..r.one(&[1, 1, 2, 3, 5])).map(|_| r.one(&PIECES)).collect()
}

/// A literal that reads as `text`; not the shortest.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}
