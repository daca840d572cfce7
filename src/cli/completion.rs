//! `lmdb-images completion`, and the candidates that a shell asks for.
//!
//! The shell's script runs this program at each Tab, so that it knows the names in the store.

use std::ffi::OsStr;

use clap::{Args, ValueEnum};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};

use super::output::{Failure, print};
use super::paths::default_root;
use super::settings_file::File;
use crate::admin::ls::{self, Page};
use crate::model::printable::is_visible;
use crate::model::{Error, Namespace, Result};
use crate::store::{ReadOnlyStore, Records};

/// Variable by which the shell's script asks for candidates.
const VARIABLE: &str = "LMDB_IMAGES_COMPLETE";

/// Names that are offered at most: more than a terminal shows.
const MAX_CANDIDATES: usize = 1000;

/// Print the script that completes commands, namespaces and image names in a shell
///
/// For example in ~/.bashrc: source <(lmdb-images completion bash)
#[derive(Args)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    /// Prints the script.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let script = script(match self.shell {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        })?;
        print(|out| out.write_all(script.as_bytes()))
    }
}

/// Returns the script of a shell.
pub(crate) fn script(shell: &str) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::Internal(format!("writing the completion for {shell}: {why}"))
    };
    let shells = Shells::builtins();
    let shell = shells.completer(shell).ok_or_else(|| failed(&"there is none"))?;
    let (name, mut text) = ("lmdb-images", Vec::new());
    shell.write_registration(VARIABLE, name, name, name, &mut text).map_err(|e| failed(&e))?;
    String::from_utf8(text).map_err(|e| failed(&e))
}

/// Whether the shell's completion script runs this program.
pub(crate) fn is_requested() -> bool {
    // As clap_complete reads it: an empty one and 0 ask for nothing.
    std::env::var_os(VARIABLE).is_some_and(|shell| !shell.is_empty() && shell != "0")
}

/// Answers the shell's completion script by `command` and returns true, if that script runs this program. Must be called
/// before any thread starts.
pub(crate) fn try_complete(command: fn() -> clap::Command) -> bool {
    let folder = std::env::current_dir().ok();
    let answer = CompleteEnv::with_factory(command).var(VARIABLE);
    // A script of another version: nothing is completed.
    answer.try_complete(std::env::args_os(), folder.as_deref()).unwrap_or(true)
}

/// Namespaces of the store that begin as `current`.
pub(crate) fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = || ReadOnlyStore::open(&store()?)?.read(|snapshot| snapshot.namespaces());
    let names = found().unwrap_or_default();
    candidates(current, names.iter().map(|namespace| namespace.as_str()))
}

/// Names of images that begin as `current`, in the namespace of CONTAINERD_NAMESPACE.
pub(crate) fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = || -> Result<Vec<String>> {
        let named = std::env::var("CONTAINERD_NAMESPACE").unwrap_or_else(|_| "default".into());
        let prefix = current.to_str().unwrap_or_default();
        let filter = format!("name~={}", go_compat::quote::quote(format!("^{}", literal(prefix))));
        let page = Page { limit: Some(MAX_CANDIDATES), ..Page::default() };
        let namespace = Namespace::parse(&named)?;
        let mut names = Vec::new();
        ls::list(&store()?, Some(&namespace), vec![filter], &page)?.for_each(|image| {
            names.push(image.name);
            Ok::<_, Error>(())
        })?;
        Ok(names)
    };
    candidates(current, found().unwrap_or_default().iter().map(String::as_str))
}

/// A text as a regular expression that matches it alone.
fn literal(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let is_plain =
            c.is_ascii_alphanumeric() || !c.is_ascii() || matches!(c, '/' | ':' | '-' | '_' | '@');
        (!is_plain).then_some('\\').into_iter().chain([c])
    });
    escaped.collect()
}

/// The store of the settings: of a command line that is being written, nothing is known.
fn store() -> Result<std::path::PathBuf> {
    match std::env::var_os("LMDB_IMAGES_ROOT") {
        Some(root) => Ok(root.into()),
        None => Ok(File::default().read()?.root.unwrap_or_else(default_root)),
    }
}

/// Those that begin as `current`. A name with a character that a shell would obey is not offered.
fn candidates<'n>(
    current: &OsStr,
    names: impl Iterator<Item = &'n str>,
) -> Vec<CompletionCandidate> {
    let prefix = current.to_str().unwrap_or_default();
    let is_safe = |name: &&str| {
        name.chars().all(|c| is_visible(c) && !" \t'\"\\$`;&|<>()*?[]{}!".contains(c))
    };
    let fitting = names.filter(|name| name.starts_with(prefix)).filter(is_safe);
    fitting.take(MAX_CANDIDATES).map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_shell_takes_as_they_are_are_offered() {
        let names = [
            "docker.io/a:1",
            "docker.io/$(reboot):1",
            "docker.io/b c",
            "docker.io/\u{1b}",
            "quay.io/a:1",
        ];
        let found = candidates(OsStr::new("docker"), names.into_iter());
        let found: Vec<_> = found.iter().map(|found| found.get_value().to_owned()).collect();
        assert_eq!(found, ["docker.io/a:1"]);
    }

    #[test]
    fn each_shell_has_a_script_that_asks_this_program() {
        for shell in ["bash", "zsh", "fish"] {
            assert!(script(shell).unwrap().contains(VARIABLE), "{shell}");
        }
    }

    #[test]
    fn a_text_matches_itself_alone() {
        assert_eq!(literal("docker.io/a+b:1"), r"docker\.io/a\+b:1");
    }
}
