//! The beginning and the end of a program: completion, the command line, the command, the exit status.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};

use super::output::Failure;
use super::{arguments, completion};
use crate::daemon::process;

/// Parses the arguments by `command` and calls `run`. Returns the exit status. Errors are printed.
pub(crate) fn run<C: FromArgMatches>(
    arguments: Vec<OsString>,
    command: fn() -> clap::Command,
    run: fn(C, &ArgMatches) -> Result<ExitCode, Failure>,
) -> ExitCode {
    if completion::try_complete(command) {
        return ExitCode::SUCCESS;
    }
    let ended = process::survive_large_files()
        .map_err(Failure::from)
        .and_then(|()| arguments::parse(command, arguments))
        .and_then(|(cli, matches)| run(cli, &matches));
    ended.unwrap_or_else(|failure| failure.report())
}
