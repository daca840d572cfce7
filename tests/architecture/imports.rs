//! Which files a file imports, read from its text.

use std::collections::BTreeSet;
use std::path::Path;

/// The code of a file: without comments, and without items that only tests have.
pub fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        // The item ends with a semicolon, or where its braces are closed.
        let (mut depth, mut opened) = (0_i32, false);
        for line in lines.by_ref() {
            depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
            opened |= line.contains('{');
            let is_attribute = line.trim_start().starts_with("#[");
            if depth <= 0 && (opened || (line.trim_end().ends_with(';') && !is_attribute)) {
                break;
            }
        }
    }
    code
}

/// The module of a file, as the segments of its path below the crate.
pub fn module(inside: &Path) -> Vec<String> {
    let mut segments: Vec<_> =
        inside.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    segments
}

/// The paths in a tree of imports, such as `a::{b, c::D}`.
fn leaves(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let split = |path: &str| -> Vec<String> {
        let path = path.split(" as ").next().unwrap_or_default();
        path.split("::").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
    };
    let Some(open) = tree.find('{') else {
        found.push([before, &split(tree)].concat());
        return;
    };
    let before = [before, &split(&tree[..open])].concat();
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    leaves(&inner[start..at], &before, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The paths that a file names: of its imports, and those that begin with `crate` or `super`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut parts = code.split("use ");
    rest.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let starts_item = rest.trim_end().ends_with([';', '}', '{', ')', ']'])
            || rest.trim_end().ends_with("pub")
            || rest.trim().is_empty();
        match part.split_once(';') {
            Some((tree, behind)) if starts_item => {
                leaves(tree, &[], &mut found);
                rest.push_str(";\n");
                rest.push_str(behind);
            }
            _ => rest.push_str(part),
        }
    }
    for word in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(word) {
            if rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path = rest[at..].split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            leaves(path.into_iter().next().unwrap_or_default(), &[], &mut found);
        }
    }
    found
}

/// The modules that a file imports, of those that are files of this crate.
pub fn imports(
    own: &[String],
    code: &str,
    modules: &BTreeSet<Vec<String>>,
) -> BTreeSet<Vec<String>> {
    let absolute = |path: Vec<String>| -> Option<Vec<String>> {
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        let child = || [own, &path[..1]].concat();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "super" => Some([&own[..own.len().checked_sub(supers)?], &path[supers..]].concat()),
            "self" => Some([own, &path[1..]].concat()),
            _ if modules.contains(&child()) => Some([own, &path[..]].concat()),
            _ => None,
        }
    };
    let file = |path: Vec<String>| {
        (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| modules.contains(path))
    };
    let found = paths(code).into_iter().filter_map(absolute).filter_map(file);
    found.filter(|path| path != own).collect()
}
