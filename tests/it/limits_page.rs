//! docs/limits.md is true as far as a program can tell: the constants that it names exist, each row names a test,
//! and each method that is served has a row. (`tests/architecture/documents.rs`: the tests exist.)

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The interfaces that are served, without `package` and the like.
const INTERFACES: &[&str] = &[
    "containerd/services/images/v1/images.proto",
    "containerd/services/namespaces/v1/namespace.proto",
    "containerd/services/leases/v1/leases.proto",
    "containerd/services/transfer/v1/transfer.proto",
    "containerd/services/events/v1/events.proto",
    "containerd/services/introspection/v1/introspection.proto",
    "containerd/services/version/v1/version.proto",
    "grpc/health/v1/health.proto",
    "lmdbimages/v1/catalog.proto",
];

/// The headings of the sections whose rows need no test: they say what has no bound, or add up.
const WITHOUT_TESTS: &[&str] = &["## Memory, together", "## Without a bound"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/limits.md")).unwrap()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_path(word: &str) -> bool {
    ["src/", "tests/", "scripts/", "crates/"].iter().any(|folder| word.starts_with(folder))
}

fn sources(folder: &Path, texts: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_constant_that_the_page_names_exists() {
    let (page, mut code) = (page(), String::new());
    sources(&repository().join("src"), &mut code);
    sources(&repository().join("crates"), &mut code);
    let name = Regex::new("^[A-Z][A-Z_]+$").unwrap();
    let is_there = |word: &str| code.contains(&format!("const {word}:"));
    let words = quoted(&page).filter(|word| name.is_match(word) && word.contains('_'));
    let missing: Vec<_> = words.filter(|word| !is_there(word)).collect();
    assert!(missing.is_empty(), "docs/limits.md names constants that are not there: {missing:#?}");
}

#[test]
fn every_row_names_a_test() {
    let (mut section, mut without) = (String::new(), Vec::new());
    for line in page().lines() {
        if line.starts_with("## ") {
            section = line.to_owned();
        }
        let is_head = line.starts_with("|---") || line.ends_with("| test |");
        if line.starts_with('|') && !is_head && !WITHOUT_TESTS.contains(&section.as_str()) {
            let last = line.trim_end_matches('|').rsplit('|').next().unwrap();
            if !quoted(last).any(is_path) {
                without.push(line.to_owned());
            }
        }
    }
    assert!(without.is_empty(), "rows of docs/limits.md without a test: {without:#?}");
}

#[test]
fn every_method_has_a_row() {
    let page = page();
    let (service, method) =
        (Regex::new(r"(?m)^service (\w+)").unwrap(), Regex::new(r"\brpc (\w+)").unwrap());
    let mut missing = Vec::new();
    for file in INTERFACES {
        let text = fs::read_to_string(repository().join("protos").join(file)).unwrap();
        let service = &service.captures(&text).unwrap()[1];
        for found in method.captures_iter(&text) {
            let name = format!("{service}/{}", &found[1]);
            if !page.contains(&format!("| {name} |")) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "methods without a row in docs/limits.md: {missing:?}");
}
