//! Parses the command line and corrects clap's errors.
//!
//! clap's errors repeat their input, which is external text, so this module escapes it. They also name
//! the argument when the value came from an environment variable, so this module names the variable.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, FromArgMatches};
use go_compat::quote::quote;

use super::output::{Failure, print_rendered, report_error};
use crate::model::printable::one_line;

/// Exit status for a wrong command line.
const EXIT_USAGE: u8 = 2;

/// Parses the arguments by `command`.
///
/// # Errors
/// The exit status, after printing the help that was asked for or the error.
pub(crate) fn parse<C: FromArgMatches>(
    command: fn() -> clap::Command,
    arguments: Vec<OsString>,
) -> Result<(C, ArgMatches), Failure> {
    let parsed = command().try_get_matches_from(&arguments);
    let parsed = parsed.and_then(|matches| Ok((C::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|mut error| {
        if let Some(reason) = invalid_utf8(&error, command(), &arguments) {
            report_error(reason);
            return Failure::Status(ExitCode::from(EXIT_USAGE));
        }
        if is_from_environment(&error, command(), &arguments) {
            name_variable(&mut error, command(), &arguments);
        }
        print_and_exit(error)
    })
}

/// Describes the variable or the argument that is not UTF-8, if that is the error: clap does not name it.
fn invalid_utf8(
    error: &clap::Error,
    commands: clap::Command,
    arguments: &[OsString],
) -> Option<String> {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return None;
    }
    let shown = |text: &OsStr| quote(text.as_encoded_bytes());
    if let Some(argument) = arguments.iter().find(|argument| argument.to_str().is_none()) {
        return Some(format!("the argument {} is not UTF-8: write it again", shown(argument)));
    }
    variables(&commands).into_iter().find_map(|name| {
        let value = std::env::var_os(name).filter(|value| value.to_str().is_none())?;
        let name = name.to_string_lossy();
        Some(format!("environment variable {name}: {} is not UTF-8: set it again", shown(&value)))
    })
}

/// Returns the environment variables of a command and of all commands below it.
fn variables(command: &clap::Command) -> Vec<&OsStr> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env());
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

/// Prints a help or an error of clap, and returns the exit status.
pub(crate) fn print_and_exit(mut error: clap::Error) -> Failure {
    escape(&mut error);
    let printed = print_rendered(&error.render(), error.use_stderr());
    if error.use_stderr() {
        return Failure::Status(ExitCode::from(EXIT_USAGE));
    }
    match printed {
        Ok(()) => Failure::Status(ExitCode::SUCCESS),
        Err(e) => e.into(),
    }
}

/// Escapes each text that the error repeats, and makes one line of it.
fn escape(error: &mut clap::Error) {
    let known: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in known {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(one_line(&text)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| one_line(text)).collect())
            }
            // A tip, which repeats the input with its line ends.
            ContextValue::StyledStrs(texts) => {
                let tips = texts.into_iter().map(|text| one_line(&text.to_string()).into());
                ContextValue::StyledStrs(tips.collect())
            }
            other => other,
        };
        error.insert(kind, value);
    }
}

/// Returns true if the error comes from an environment variable: the arguments alone give another
/// result.
fn is_from_environment(
    error: &clap::Error,
    command: clap::Command,
    arguments: &[OsString],
) -> bool {
    if !matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
    ) {
        return false;
    }
    match without_environment(command).try_get_matches_from(arguments) {
        Ok(_) => true,
        Err(other) => other.to_string() != error.to_string(),
    }
}

fn without_environment(command: clap::Command) -> clap::Command {
    let reset = |arg: clap::Arg| arg.env(Resettable::Reset);
    command.mut_args(reset).mut_subcommands(without_environment)
}

/// Replaces the name of the argument in the error with that of its environment variable.
fn name_variable(error: &mut clap::Error, mut known: clap::Command, arguments: &[OsString]) {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return };
    known.build();
    let mut innermost = &known;
    for word in arguments.iter().skip(1) {
        if let Some(found) = word.to_str().and_then(|word| innermost.find_subcommand(word)) {
            innermost = found;
        }
    }
    let argument = innermost.get_arguments().find(|arg| arg.to_string() == *name);
    let Some(variable) = argument.and_then(|arg| arg.get_env()) else { return };
    let name = format!("environment variable {}", variable.to_string_lossy());
    error.insert(ContextKind::InvalidArg, ContextValue::String(name));
}
