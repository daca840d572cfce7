//! Reads clients' files of settings, of a bounded size, and finds values in them.
//!
//! TOML and JSON are parsed by their libraries; of YAML only lines `key: value` at the top are read, which is the
//! form of the keys that are needed here.

use std::fmt;
use std::path::{Path, PathBuf};

use go_compat::quote::quote;

use crate::admin::file;

/// The longest file of settings that is read, in bytes.
pub(crate) const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// Reads a file of settings; `None` if there is none.
pub(crate) fn settings(root: &Path, name: &str) -> Option<Result<String, String>> {
    let path = root.join(name.trim_start_matches('/'));
    match file::read_text(&path, MAX_SETTINGS_BYTES) {
        Ok(found) => found.map(|(_, text)| Ok(text)),
        Err(e) => Some(Err(e.message().to_owned())),
    }
}

/// The reason of a file that is not in its format.
pub(crate) fn not_parsed(name: &str, why: impl fmt::Display) -> String {
    format!("{name} cannot be parsed: {why}")
}

/// The words of a command or of a file with one. A flag and its value, `--flag=value`, are two words.
pub(crate) fn words(text: &str) -> Vec<&str> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=');
    text.split(ends).filter(|word| !word.is_empty()).collect()
}

/// The word after a flag.
pub(crate) fn value_after(words: &[&str], flag: &str) -> Option<String> {
    let at = words.iter().position(|word| *word == flag)?;
    words.get(at + 1).map(|value| (*value).to_owned())
}

/// The value of a line `key: value` that is not indented: plain or in quotes, and perhaps with a comment after it.
pub(crate) fn yaml_value<'t>(text: &'t str, key: &str) -> Result<Option<&'t str>, String> {
    let of_line = |line: &'t str| line.strip_prefix(key)?.trim_start().strip_prefix(':');
    let Some(value) = text.lines().find_map(of_line).map(str::trim) else { return Ok(None) };
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let end = rest.find(quote);
            let inner = end.and_then(|end| rest.get(..end));
            return inner.map(Some).ok_or_else(|| format!("{key} has no end of its quotes"));
        }
    }
    let value = match value.split_once(" #") {
        _ if value.starts_with('#') => "",
        Some((value, _)) => value.trim_end(),
        None => value,
    };
    match value {
        "" | "~" | "null" => Ok(None),
        value if value.starts_with(['|', '>', '{', '[', '&', '*', '!']) => {
            Err(format!("{key} has {}, not a plain value", quote(value)))
        }
        value => Ok(Some(value)),
    }
}

/// The path of a Unix socket, from an endpoint: a path, or `unix://` and a path.
pub(crate) fn socket_path(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    // `unix:///run/x` has an empty host.
    let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// The path below a folder without symbolic links, as far as it exists.
pub(crate) fn resolved(root: &Path, path: &Path) -> PathBuf {
    let path = root.join(path.strip_prefix("/").unwrap_or(path));
    path.canonicalize().unwrap_or_else(|_| {
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        folder
            .zip(path.file_name())
            .map_or_else(|| path.clone(), |(folder, name)| folder.join(name))
    })
}
