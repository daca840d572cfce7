//! What the documents and the comments name exists: files, functions of files, modules, headings, scripts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sources;

/// The folders whose files are named by their path from the top of the repository.
const FOLDERS: &[&str] = &[
    "benches/",
    "containerd-plugin/",
    "crates/",
    "docs/",
    "examples/",
    "fuzz/",
    "packaging/",
    "protos/",
    "scripts/",
    "src/",
    "tests/",
    "tools/",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, by their path from the top of the repository, with their text.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in [
        "",
        "containerd-plugin",
        "crates/bbolt-read",
        "crates/go-compat",
        "crates/lmdb-verify",
        "docs",
        "tests/data",
    ] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 15);
    found
}

/// The words in backticks that name a file of the repository.
fn named_files(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let words = quoted.flat_map(str::split_whitespace);
    words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expand(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![path.to_owned()] };
    choices.split(',').map(|choice| format!("{head}{choice}{tail}")).collect()
}

/// The folders from which a file of that path names others: the repository, and the file's own crate.
fn homes(file: &str) -> Vec<PathBuf> {
    let mut segments = file.split('/');
    let own = match (segments.next(), segments.next()) {
        (Some("crates"), Some(name)) => Some(repository().join("crates").join(name)),
        _ => None,
    };
    own.into_iter().chain([repository().to_owned()]).collect()
}

/// Returns whether the file exists in that folder and has the function, if one is named.
fn exists(home: &Path, word: &str) -> bool {
    let (file, function) = word.split_once("::").unwrap_or((word, ""));
    let path = home.join(file);
    if file.contains('*') {
        return path.parent().is_some_and(Path::is_dir);
    }
    match function.rsplit("::").next() {
        None | Some("") => path.exists(),
        Some(function) => {
            fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {function}(")))
        }
    }
}

/// The files that a text of that file names and that are not there.
fn missing_files(file: &str, text: &str) -> Vec<String> {
    let homes = homes(file);
    let is_missing = |word: &String| !homes.iter().any(|home| exists(home, word));
    let missing = named_files(text).flat_map(expand).filter(is_missing);
    missing.map(|word| format!("{file} names {word}")).collect()
}

/// The paths of modules and their items in backticks, such as `store::journal`.
fn named_modules(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|word| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let first = word.chars().next();
        word.contains("::") && word.chars().all(is_name) && first.is_some_and(char::is_lowercase)
    })
}

/// Returns whether the module of this crate, or of one of its own crates, exists and has the item, if one is named.
fn is_module(word: &str) -> bool {
    let mut segments = word.split("::").peekable();
    let own_crate = segments.peek().map(|name| name.replace('_', "-")).unwrap_or_default();
    let mut folder = repository().join("crates").join(own_crate).join("src");
    if folder.is_dir() {
        segments.next();
    } else {
        folder = repository().join("src");
    }
    let mut file = folder.join("lib.rs");
    for segment in segments {
        let (inner, leaf) = (folder.join(segment), folder.join(segment).with_extension("rs"));
        if inner.is_dir() || leaf.is_file() {
            file = if leaf.is_file() { leaf } else { inner.join("mod.rs") };
            folder = inner;
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let is_end = |c: char| !c.is_alphanumeric() && c != '_';
        return code.flat_map(|line| line.split(is_end)).any(|word| word == segment);
    }
    true
}

/// The anchor that a heading of Markdown gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The links of a document of that path to files or headings that are not there.
fn missing_links(document: &str, text: &str) -> Vec<String> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    let targets = inline.chain(defined.filter_map(|(_, target)| target.split(' ').next()));
    let is_missing = |target: &&str| {
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let folder = repository().join(document);
        let path = match file {
            "" => folder,
            _ => folder.parent().unwrap().join(file),
        };
        let has_heading = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
        };
        !path.exists() || (!heading.is_empty() && !has_heading())
    };
    let local = targets.filter(|target| !target.contains("://"));
    local.filter(is_missing).map(|target| format!("{document} links to {target}")).collect()
}

#[test]
fn every_file_that_a_document_names_exists() {
    // What the log of changes names need not exist any more.
    let documents = documents().into_iter().filter(|(name, _)| name != "CHANGELOG.md");
    let missing: Vec<_> = documents.flat_map(|(name, text)| missing_files(&name, &text)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_module_that_a_document_names_exists() {
    for (name, text) in &documents() {
        // The page on limits explains the form of its last column by this.
        let modules = named_modules(text).filter(|word| *word != "file::function");
        let missing: Vec<_> = modules.filter(|word| !is_module(word)).collect();
        assert!(missing.is_empty(), "{name} names modules that are not there: {missing:?}");
    }
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let documents = documents().into_iter();
    let missing: Vec<_> = documents.flat_map(|(name, text)| missing_links(&name, &text)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_file_that_a_comment_names_exists() {
    let mut files = Vec::new();
    for folder in
        ["benches", "crates", "examples", "fuzz/src", "fuzz/targets", "src", "tests", "tools"]
    {
        sources(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 400);
    let mut missing = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let comments: Vec<_> =
            text.lines().filter(|line| line.trim_start().starts_with("//")).collect();
        let name = file.strip_prefix(repository()).unwrap().to_str().unwrap();
        missing.extend(missing_files(name, &comments.join("\n")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn contributing_lists_every_script() {
    let text = fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap();
    let (_, table) = text.split_once("## How long does each script take").unwrap();
    let listed: BTreeSet<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', ' ']).next())
        .map(|script| script.strip_prefix("scripts/").unwrap_or(script).to_owned())
        .collect();
    let mut there = BTreeSet::new();
    for folder in ["", "soak/", "compat/"] {
        for entry in fs::read_dir(repository().join("scripts").join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                there.insert(format!("{folder}{}", entry.file_name().to_str().unwrap()));
            }
        }
    }
    assert_eq!(listed, there, "on the left what CONTRIBUTING.md lists, on the right the scripts");
}

/// The tests that a text says how to run and that are not there.
fn missing_tests(text: &str) -> Vec<&str> {
    let commands = text.split("cargo test --test ").skip(1);
    let commands = commands.filter_map(|rest| rest.split(['`', '\n']).next());
    let is_missing = |command: &&str| {
        let mut words = command.split_whitespace();
        let program = words.next().unwrap_or_default();
        let name = words.next().unwrap_or_default().rsplit("::").next().unwrap_or_default();
        let mut files = Vec::new();
        let folder = repository().join("tests").join(program);
        if folder.is_dir() {
            sources(&folder, &mut files);
        }
        !files.iter().any(|file| {
            file.file_stem().is_some_and(|stem| stem == name)
                || fs::read_to_string(file).unwrap().contains(&format!("fn {name}("))
        })
    };
    commands.filter(is_missing).collect()
}

#[test]
fn every_test_that_a_document_says_how_to_run_exists() {
    for (name, text) in &documents() {
        let missing = missing_tests(text);
        assert!(missing.is_empty(), "{name} says how to run {missing:?}");
    }
}

#[test]
fn a_missing_file_or_test_is_found() {
    let here = "tests/architecture/documents.rs";
    assert_eq!(
        missing_files(here, "`src/lib.rs`, `src/{lib,none}.rs` and `scripts/none 60`"),
        [format!("{here} names src/none.rs"), format!("{here} names scripts/none")]
    );
    assert!(missing_files(here, &format!("`{here}::a_missing_file_or_test_is_found`")).is_empty());
    assert_eq!(missing_files(here, &format!("`{here}::none`")).len(), 1);
    let of_a_crate = "crates/bbolt-read/README.md";
    assert_eq!(missing_files(of_a_crate, "`tests/bbolt.rs` `tests/none.rs`").len(), 1);
    let links = "[a](../README.md) [b](none.md) [c](limits.md#none) [d](https://example.com) [e][e]\n\n\
                 [e]: none/e.md\n[f]: ../README.md\n";
    assert_eq!(
        missing_links("docs/proxy.md", links),
        ["none.md", "limits.md#none", "none/e.md"].map(|to| format!("docs/proxy.md links to {to}"))
    );
    let commands = "`cargo test --test it limits::panics::none` `cargo test --test none`";
    assert_eq!(missing_tests(commands), ["it limits::panics::none", "none"]);
    let modules =
        "`store::journal` `service::Images` `go_compat::regexp` `Matcher::new` `front::client`";
    let missing: Vec<_> = named_modules(modules).filter(|word| !is_module(word)).collect();
    assert_eq!(missing, ["front::client"]);
}
