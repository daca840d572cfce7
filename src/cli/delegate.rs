//! `ship` and `fleet` are commands of another program, `lmdb-images-fleet`, which is installed beside this one.
//!
//! So the program of a node has neither a client of PostgreSQL and NATS nor TLS, and is more than a quarter smaller.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::execv;

use super::completion;
use crate::model::{Error, Result};

/// The program that has the commands.
const PROGRAM: &str = "lmdb-images-fleet";

/// The commands, with the first line of their help.
const COMMANDS: [(&str, &str); 2] = [
    ("ship", "Report this node's images, and each change of them, to the PostgreSQL of a fleet"),
    ("fleet", "Query the images of all nodes in the PostgreSQL that `lmdb-images ship` reports to"),
];

/// Adds the commands to the help of this program.
pub(crate) fn with_commands(command: clap::Command) -> clap::Command {
    command.subcommands(COMMANDS.map(|(name, about)| clap::Command::new(name).about(about)))
}

/// Replaces this program by `lmdb-images-fleet` if the arguments name one of its commands, or ask for the help or the
/// completion of one. Otherwise returns.
///
/// # Errors
/// The arguments name one of its commands, and the program cannot be started.
pub(crate) fn delegate(arguments: &[OsString]) -> Result<()> {
    let is_completion = completion::is_requested();
    let Some(name) = delegated(arguments, is_completion) else { return Ok(()) };
    let failed = start(arguments);
    // An error message would be printed into the line that the user is writing.
    if is_completion {
        return Ok(());
    }
    failed.map(|_| ()).map_err(|why| {
        Error::FailedPrecondition(format!("`lmdb-images {name}` needs {PROGRAM}: {why}"))
    })
}

/// Replaces this program by the other one. Returns only if that fails, with the reason.
fn start(arguments: &[OsString]) -> std::result::Result<Infallible, String> {
    let this = std::env::current_exe().map_err(|e| format!("the folder of this program: {e}"))?;
    let path = this.with_file_name(PROGRAM);
    if path.symlink_metadata().is_err() {
        return Err(format!("{} is not there: install {PROGRAM}", path.display()));
    }
    // As a link to this program, it would start itself for ever.
    if path.canonicalize().is_ok_and(|path| path == this) {
        return Err(format!("{} is lmdb-images: install {PROGRAM}", path.display()));
    }
    let words =
        [path.as_os_str()].into_iter().chain(arguments.iter().skip(1).map(|a| a.as_os_str()));
    let words: std::result::Result<Vec<_>, _> =
        words.map(|word| CString::new(word.as_bytes())).collect();
    let words = words.map_err(|e| e.to_string())?;
    // Not `Command::exec`: if the file is no program, that has a shell run it as a script.
    let program = words.first().ok_or("the command line is empty")?;
    execv(program, &words).map_err(|errno| {
        format!("{} cannot be started: {}: install {PROGRAM} again", path.display(), errno.desc())
    })
}

/// The command of [`PROGRAM`] that the arguments name. A shell that completes a line passes it after `--`.
fn delegated(arguments: &[OsString], is_completion: bool) -> Option<&'static str> {
    let mut words = arguments.iter().map(|word| word.as_os_str());
    if is_completion {
        words.find(|word| *word == "--")?;
    }
    let mut words = words.skip(1);
    let first = words.next()?;
    let named = if first == "help" { words.next()? } else { first };
    COMMANDS.iter().map(|(name, _)| *name).find(|name| named == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "fleet")]
    #[test]
    fn the_commands_are_those_of_the_other_program() {
        let there = crate::cli::fleet::command();
        let there =
            there.get_subcommands().map(|c| (c.get_name(), c.get_about().unwrap().to_string()));
        let here = COMMANDS.map(|(name, about)| (name, about.to_owned()));
        assert!(there.eq(here));
    }

    #[test]
    fn only_the_first_word_names_a_command() {
        let named = |line: &str, is_completion| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            delegated(&words, is_completion)
        };
        assert_eq!(named("lmdb-images ship --to x", false), Some("ship"));
        assert_eq!(named("lmdb-images help fleet where", false), Some("fleet"));
        assert_eq!(named("lmdb-images fleet --help", false), Some("fleet"));
        for other in [
            "lmdb-images",
            "lmdb-images ls fleet",
            "lmdb-images help help fleet",
            "lmdb-images help",
            "lmdb-images -- fleet",
        ] {
            assert_eq!(named(other, false), None, "{other}");
        }
        assert_eq!(named("lmdb-images -- lmdb-images fleet w", true), Some("fleet"));
        assert_eq!(named("lmdb-images fleet", true), None);
    }
}
