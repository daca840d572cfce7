//! The architecture holds: a module imports only what stands below it, also inside `store` and
//! `transport`; no files import each other in a circle; libraries and `unsafe` stay where they belong.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod documents;
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{code, imports, module};

/// The modules of a folder from the bottom up. Modules of one row do not import each other.
type Rows = &'static [&'static [&'static str]];

/// A folder of `src`, with its rows. The files `mod`, `lib` and `main` may import everything.
const LAYERS: &[(&str, Rows)] = &[
    (
        "",
        &[
            &["api", "log_throttle"],
            &["model"],
            &["clock", "limits", "metrics"],
            &["store"],
            &["service"],
            &["containerd"],
            &["proxy"],
            &["health"],
            &["transport"],
            &["admin", "daemon"],
            &["fleet"],
            &["cli"],
        ],
    ),
    (
        "store",
        &[
            &["bounds", "dir"],
            &["error"],
            &["schema"],
            &["changelog", "lmdb"],
            &["journal"],
            &["read", "recovery"],
            &["engine"],
            &["store", "read_only"],
        ],
    ),
    ("transport", &[&["status"], &["conn"], &["limits", "metrics_http"], &["grpc", "ttrpc"]]),
];

/// Where a library's name may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("heed", &["store"]),
    ("bbolt_read", &["admin", "containerd"]),
    ("lmdb_verify", &["admin", "store"]),
    ("rpds", &["store"]),
    ("rustix", &["containerd", "transport"]),
    ("ttrpc", &["transport"]),
    ("hyper", &["transport"]),
    ("h2", &["transport"]),
    ("tonic", &["transport", "containerd", "proxy", "fleet"]),
    ("async_nats", &["fleet"]),
    ("tokio_postgres", &["fleet"]),
    ("rustls", &["fleet"]),
    (
        "tokio",
        &[
            "store",
            "limits",
            "service",
            "containerd",
            "proxy",
            "health",
            "transport",
            "admin",
            "daemon",
            "fleet",
            "cli",
        ],
    ),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("ratatui", &["cli"]),
    ("prometheus_client", &["metrics", "daemon"]),
];

/// What the commands may do in one file each only: a file that they read or replace is a regular file
/// there, and text that they print is escaped there.
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

/// What is wrong with an import by the rows of a folder that both modules are in.
fn upward(own: &[String], used: &[String]) -> Option<String> {
    for (folder, rows) in LAYERS {
        let prefix: Vec<_> = folder.split('/').filter(|s| !s.is_empty()).collect();
        let inside = |module: &[String]| -> Option<String> {
            let starts =
                module.len() > prefix.len() && module.iter().zip(&prefix).all(|(a, b)| a == b);
            starts.then(|| module[prefix.len()].clone())
        };
        let (Some(from), Some(to)) = (inside(own), inside(used)) else { continue };
        if from == to || ["lib", "main"].contains(&from.as_str()) {
            continue;
        }
        let row = |name: &str| {
            let found = rows.iter().position(|row| row.contains(&name));
            found.unwrap_or_else(|| panic!("{folder}/{name} has no layer: give it one here"))
        };
        if row(&to) >= row(&from) {
            return Some(format!("{} imports {}", own.join("::"), used.join("::")));
        }
    }
    None
}

/// Whether `name::` of that crate is named in a line.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    line.match_indices(&path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

/// Files of `transport` and `service` whose own bounds keep their lines few.
const LOGS_FEW_LINES: &[&str] =
    &["service/gc/mod.rs", "transport/conn/listener.rs", "transport/ttrpc/forward.rs"];

/// Whether a line of code writes to the log whenever a client makes it run.
fn logs_without_bound(line: &str) -> bool {
    ["log::info!", "log::warn!", "log::error!"].iter().any(|log| line.contains(log))
}

fn out_of_place(inside: &Path, code: &str) -> Vec<String> {
    let top = module(inside)[0].clone();
    let mut found = Vec::new();
    for line in code.lines() {
        for (library, homes) in HOMES {
            if names_crate(line, library) && !homes.contains(&top.as_str()) {
                found.push(format!("{top} names {library}"));
            }
        }
        let is_unsafe =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        if is_unsafe && top != "store" {
            found.push(format!("{top} has unsafe code"));
        }
        let is_request = ["service", "transport"].contains(&top.as_str());
        let has_bound = LOGS_FEW_LINES.iter().any(|file| inside == Path::new(file));
        if is_request && !has_bound && logs_without_bound(line) {
            found.push(format!("{top} writes to the log without throttled_log!"));
        }
        if ["admin", "cli"].contains(&top.as_str()) {
            for (home, words) in ONE_PLACE.iter().filter(|(home, _)| inside != Path::new(home)) {
                let words = words.iter().filter(|word| line.contains(**word));
                found.extend(words.map(|word| format!("{word} belongs into {home}")));
            }
        }
    }
    found
}

/// Files that import each other in a circle, each circle as one sentence.
fn circles(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(next) = todo.pop() {
            for used in imports.get(&next).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    todo.push(used.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (module, reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, reached_from) in &reached {
        let circle: Vec<_> = reached_from
            .iter()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)))
            .map(|other| other.join("::"))
            .collect();
        if !circle.is_empty() {
            found.insert(format!("a circle: {}", circle.join(", ")));
        }
    }
    found.into_iter().collect()
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

/// What is wrong with files, given by their place below `src` and their text. A file `mod.rs` that only
/// declares and re-exports its children is no part of a circle.
fn offences(files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut found = Vec::new();
    let modules: BTreeSet<_> = files.keys().map(|file| module(file)).collect();
    let mut all = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
        let (own, code) = (module(file), code(text));
        let used = imports(&own, &code, &modules);
        found.extend(used.iter().filter_map(|used| upward(&own, used)));
        found.extend(
            out_of_place(file, &code).into_iter().map(|o| format!("{}: {o}", file.display())),
        );
        if !text.starts_with("//!") {
            found
                .push(format!("{} does not begin by saying what it is for: //! …", file.display()));
        }
        let only_declares = code.split(';').all(|item| {
            let item = item.trim();
            let item = item.rsplit(']').next().unwrap_or_default().trim();
            item.is_empty()
                || ["mod ", "pub mod ", "pub(crate) mod ", "pub use ", "pub(crate) use "]
                    .iter()
                    .any(|start| item.starts_with(start))
        });
        if !only_declares && !["lib", "main"].contains(&own[0].as_str()) {
            all.insert(own, used);
        }
    }
    found.extend(circles(&all));
    found
}

#[test]
fn the_architecture_holds() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20);
    let files = files.into_iter().map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        (file.strip_prefix(&src).unwrap().to_owned(), text)
    });
    let found = offences(&files.collect());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Offences of two files, with those texts.
fn offences_of(files: &[(&str, &str)]) -> Vec<String> {
    let text = |code: &str| format!("//! x\n{code}\n");
    offences(&files.iter().map(|(file, code)| (PathBuf::from(file), text(code))).collect())
}

#[test]
fn each_kind_of_violation_is_seen() {
    let store = ("store/store.rs", "");
    for (file, code) in [
        ("model/x.rs", "use crate::store::store::Store;"),
        ("model/x.rs", "fn f() { crate::store::store::g() }"),
        ("model/x.rs", "#[cfg(test)]\nuse a::b;\nuse crate::store::store::Store;"),
        ("model/x.rs", "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::store::store::S;"),
        ("store/dir/x.rs", "use super::super::store::Store;"),
        ("store/engine/x.rs", "use crate::store::{dir, store::Store};"),
        ("service/x.rs", "use heed::Env;"),
        ("proxy/x.rs", "let c = hyper::server::conn();"),
        ("proxy/x.rs", "ttrpc::Request::new()"),
        ("model/x.rs", "unsafe { f() }"),
        ("admin/x.rs", "File::open(path)"),
        ("cli/x.rs", "println!()"),
        ("transport/x.rs", "log::warn!()"),
    ] {
        assert_eq!(offences_of(&[store, (file, code)]).len(), 1, "{file}: {code}");
    }
    let circle = [("store/dir/a.rs", "use super::b::B;"), ("store/dir/b.rs", "use super::a::A;")];
    assert_eq!(offences_of(&circle), ["a circle: store::dir::a, store::dir::b"]);
    let parent =
        [("proxy/mod.rs", "mod ask;\nuse ask::Ask;"), ("proxy/ask.rs", "use super::Proxy;")];
    assert_eq!(offences_of(&parent), ["a circle: proxy, proxy::ask"]);
    for (file, code) in [
        ("cli/x.rs", "use crate::store::store::Store;"),
        ("store/engine/x.rs", "use heed::Env; unsafe {}"),
        ("model/x.rs", "// crate::store::store is above"),
        ("model/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::store::Store;\n}"),
        ("proxy/x.rs", "use hyper_util::rt::TokioIo;"),
    ] {
        assert_eq!(offences_of(&[store, (file, code)]), Vec::<String>::new(), "{file}: {code}");
    }
    let declares =
        [("proxy/mod.rs", "mod ask;\npub use ask::Ask;"), ("proxy/ask.rs", "use super::Ask;")];
    assert_eq!(offences_of(&declares), Vec::<String>::new());
}
