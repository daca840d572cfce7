//! The layers hold: a module imports only what stands below it, and libraries stay where they
//! belong.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules of one row do not know each other.
const LAYERS: &[&[&str]] = &[
    &["api", "log_throttle", "metrics"],
    &["model"],
    &["clock"],
    &["store"],
    &["service"],
    &["front"],
    &["transport"],
    &["admin", "daemon"],
    &["cli"],
    &["lib", "main"],
];

/// Where a library's name may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("heed", &["store"]),
    ("bbolt_read", &["admin"]),
    ("rpds", &["store"]),
    ("rustix", &["transport"]),
    ("ttrpc", &["transport"]),
    ("hyper", &["transport"]),
    ("h2", &["transport"]),
    ("tonic", &["transport", "front"]),
    ("tokio", &["store", "service", "front", "transport", "admin", "daemon", "cli"]),
    ("clap", &["cli"]),
    ("prometheus_client", &["metrics", "daemon"]),
];

/// What the commands may do in one file each only: whatever they read or replace is a regular file there,
/// and whatever they print is escaped there.
const ONE_PLACE: &[(&str, &[&str])] = &[
    (
        "admin/file.rs",
        &[
            "File::open",
            "File::create",
            "File::options",
            "OpenOptions",
            "fs::read",
            "fs::write",
            ".persist",
        ],
    ),
    (
        "cli/output.rs",
        &["print!", "println!", "::stdout()", "::stderr()", ".exit()", "io::stdout", "io::stderr"],
    ),
];

fn out_of_place(inside: &Path, text: &str) -> Vec<String> {
    let is_command = inside.starts_with("admin") || inside.starts_with("cli");
    let forbidden = ONE_PLACE.iter().filter(|(home, _)| is_command && inside != Path::new(home));
    let words = forbidden.flat_map(|(home, words)| words.iter().map(move |word| (home, word)));
    let found = words.filter(|(_, word)| code(text).any(|line| line.contains(**word)));
    found.map(|(home, word)| format!("{word} belongs into {home}")).collect()
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|row| row.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} has no layer: give it one here"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The lines of code before the tests of a file, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
}

/// The words that follow `prefix` in a line of code.
fn words_after<'l>(line: &'l str, prefix: &'l str) -> impl Iterator<Item = &'l str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
    })
}

/// Whether `path::` of that crate is named in a line.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    line.match_indices(&path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

fn offences(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code(text) {
        for used in words_after(line, "crate::") {
            if !used.is_empty() && used != module && layer(used) >= layer(module) {
                found.push(format!("{module} imports {used}"));
            }
        }
        if line.trim_start().starts_with("use crate::{") {
            found.push(format!("write one `use crate::…` a module: {}", line.trim()));
        }
        for (library, homes) in HOMES {
            if names_crate(line, library) && !homes.contains(&module) {
                found.push(format!("{module} names {library}"));
            }
        }
        let is_unsafe =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        if is_unsafe && module != "store" {
            found.push(format!("{module} has unsafe code"));
        }
    }
    if !text.starts_with("//!") {
        found.push("a file begins by saying what it is for: //! …".into());
    }
    found
}

#[test]
fn every_module_imports_only_what_stands_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20);
    let mut found = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let text = fs::read_to_string(&file).unwrap();
        found.extend(
            offences(module, &text)
                .into_iter()
                .chain(out_of_place(inside, &text))
                .map(|o| format!("{}: {o}", inside.display())),
        );
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_see_what_breaks_them() {
    for (module, code) in [
        ("model", "use crate::store::Store;"),
        ("service", "fn f() { crate::transport::g() }"),
        ("daemon", "use crate::admin::import;"),
        ("service", "use heed::Env;"),
        ("front", "let c = hyper::server::conn();"),
        ("front", "ttrpc::Request::new()"),
        ("model", "unsafe { f() }"),
        ("cli", "use crate::{model, store};"),
    ] {
        assert_eq!(offences(module, &format!("//! x\n{code}")).len(), 1, "{module}: {code}");
    }
    for (file, code) in [("admin/x.rs", "File::open(path)"), ("cli/x.rs", "println!()")] {
        assert_eq!(out_of_place(Path::new(file), code).len(), 1, "{file}: {code}");
    }
    assert!(out_of_place(Path::new("store/x.rs"), "File::open(path)").is_empty());
    for (module, code) in [
        ("store", "use heed::Env; use crate::model::Result; unsafe {}"),
        ("front", "use hyper_util::rt::TokioIo;"),
        ("service", "// crate::transport is above"),
        ("daemon", "use lmdb_images::transport::ttrpc::server::Ttrpc;"),
        ("model", "#[cfg(test)]\nuse crate::store::Store;"),
    ] {
        assert_eq!(
            offences(module, &format!("//! x\n{code}")),
            Vec::<String>::new(),
            "{module}: {code}"
        );
    }
}
