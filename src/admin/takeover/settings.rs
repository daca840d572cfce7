//! Reads clients' files of settings, of a bounded size, and finds values in them.
//!
//! TOML and JSON are parsed by their libraries; of YAML only lines `key: value` at the top are read, which is the
//! form of the keys that are needed here, or JSON.

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

/// The word after a flag. If the flag is repeated, the last one counts, as in Go's programs.
pub(crate) fn last_value_after(words: &[impl AsRef<str>], flag: &str) -> Option<String> {
    let at = words.iter().rposition(|word| word.as_ref() == flag)?;
    words.get(at + 1).map(|value| value.as_ref().to_owned())
}

/// The value of a variable in a file that pam_env reads: of the last line `NAME=value`, without quotes around the value, and
/// perhaps with a comment after it.
pub(crate) fn variable<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let of_line = |line: &'t str| {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(name)?.strip_prefix('=')
    };
    let value = text.lines().filter_map(of_line).next_back()?;
    let value = value.split('#').next().unwrap_or_default();
    Some(value.trim().trim_matches(['"', '\'']))
}

/// The value of a key at the top of a file of YAML: of a line `key: value` that is not indented, plain or in quotes, and
/// perhaps with a comment after it. A file that begins with a brace is read as JSON, which is YAML, too.
pub(crate) fn yaml_value(text: &str, key: &str) -> Result<Option<String>, String> {
    if text.trim_start().starts_with('{') {
        return json_value(text, key);
    }
    let keys = [key.to_owned(), format!("\"{key}\""), format!("'{key}'")];
    let mut of_lines = text.lines().filter_map(|line| {
        let rest = keys.iter().find_map(|key| line.strip_prefix(key.as_str()))?;
        rest.trim_start().strip_prefix(':')
    });
    let Some(value) = of_lines.next().map(str::trim) else { return Ok(None) };
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let end = rest.find(quote);
            let inner = end.and_then(|end| rest.get(..end)).map(str::to_owned);
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
        value => Ok(Some(value.to_owned())),
    }
}

fn json_value(text: &str, key: &str) -> Result<Option<String>, String> {
    let json: serde_json::Value = serde_json::from_str(text)
        .map_err(|e| format!("it begins with a brace, and is not JSON: {e}"))?;
    match json.get(key) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(value)) => Ok(Some(value.clone())),
        Some(value) => Err(format!("{key} has {}, not a text", quote(value.to_string()))),
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
