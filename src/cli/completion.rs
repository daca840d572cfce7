//! `lmdb-images completion`: the scripts of the shells.
//!
//! A script runs this program at each Tab, so that it knows the names in the store
//! ([`candidates`](super::candidates)).

use clap::{Args, ValueEnum};
use clap_complete::env::{CompleteEnv, Shells};

use super::output::{Failure, print};
use crate::model::{Error, Result};

/// Variable by which the shell's script asks for candidates.
const VARIABLE: &str = "LMDB_IMAGES_COMPLETE";

/// The function of bash that stands in front of clap's.
const BASH: &str = include_str!("completion.bash");

/// In the file of a completion, zsh runs the whole file as the function of that name at the first Tab.
const ZSH: &str =
    "[[ ${funcstack[1]} != _lmdb-images ]] || _clap_dynamic_completer_lmdb_images \"$@\"\n";

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

/// Returns the script of a shell: `bash`, `zsh` or `fish`. It can be sourced, or be the shell's file of completions for
/// `lmdb-images`.
///
/// # Errors
/// `Internal` if there is no script for the shell.
pub fn script(shell: &str) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::Internal(format!("writing the completion for {shell}: {why}"))
    };
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or_else(|| failed(&"there is none"))?;
    let (name, mut text) = ("lmdb-images", Vec::new());
    completer.write_registration(VARIABLE, name, name, name, &mut text).map_err(|e| failed(&e))?;
    let text = String::from_utf8(text).map_err(|e| failed(&e))?;
    Ok(match shell {
        "bash" => {
            let registered = text.replace("-F _clap_complete_lmdb_images", "-F _lmdb_images");
            format!("{BASH}{registered}")
        }
        "zsh" => format!("{text}{ZSH}"),
        _ => text,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_has_a_script_that_asks_this_program() {
        for shell in ["bash", "zsh", "fish"] {
            assert!(script(shell).unwrap().contains(VARIABLE), "{shell}");
        }
        // The functions that ours call are clap's.
        let bash = script("bash").unwrap();
        assert!(bash.contains("\n_clap_complete_lmdb_images() {\n"), "{bash}");
        assert!(bash.contains(" -F _lmdb_images lmdb-images\n"), "{bash}");
        let zsh = script("zsh").unwrap();
        assert!(
            zsh.starts_with("#compdef lmdb-images\nfunction _clap_dynamic_completer_lmdb_images()")
        );
    }
}
