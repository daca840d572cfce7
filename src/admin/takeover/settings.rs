//! Reads clients' files of settings, of a bounded size, and finds flags and variables.

use std::fmt;
use std::path::{Path, PathBuf};

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

/// The arguments of a command as a text, of which quotes are removed.
pub(crate) fn arguments(text: &str) -> Vec<String> {
    // Where a quote has no end, it is a part of its word.
    shlex::split(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

/// The arguments in the values of a file of variables, in which some lines are comments.
pub(crate) fn arguments_of_variables(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let values = lines.filter_map(|line| Some(line.split_once('=')?.1.trim()));
    values.flat_map(|value| arguments(value.trim_matches(['"', '\'']))).collect()
}

/// The value of a flag, as `--flag=value` or as `--flag value`. If the flag is repeated, the last one counts, as in Go's
/// programs.
pub(crate) fn last_value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let mut places = (0..arguments.len()).rev();
    places.find_map(|at| match arguments.get(at)?.strip_prefix(flag)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
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
