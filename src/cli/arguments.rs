//! Parsing the command line, and saying what is wrong with it.
//!
//! clap repeats in its sentences what it was given. That is text from outside, and an environment
//! variable may have been at fault rather than an argument: both are put right here.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, FromArgMatches};

use super::output::{Failure, print_rendered};
use super::{Cli, command};
use crate::model::printable::one_line;

/// The exit status after a wrong command line.
const USAGE: u8 = 2;

/// Parses the arguments. A help or a wrong command line ends the program.
pub fn parse(arguments: Vec<OsString>) -> Result<(Cli, ArgMatches), Failure> {
    let parsed = command().try_get_matches_from(&arguments);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|mut error| {
        if is_of_environment(&error, &arguments) {
            name_variable(&mut error, &arguments);
        }
        end(error)
    })
}

/// Prints a help, or what is wrong, and ends the program.
pub fn end(mut error: clap::Error) -> Failure {
    escape(&mut error);
    let printed = print_rendered(&error.render(), error.use_stderr());
    if error.use_stderr() {
        return Failure::Status(ExitCode::from(USAGE));
    }
    match printed {
        Ok(()) => Failure::Status(ExitCode::SUCCESS),
        Err(e) => e.into(),
    }
}

/// Makes one line of each text that the sentence repeats.
fn escape(error: &mut clap::Error) {
    let known: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in known {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(one_line(&text)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| one_line(text)).collect())
            }
            other => other,
        };
        error.insert(kind, value);
    }
}

/// Whether the arguments alone are right, or wrong in another way: then a variable is at fault.
fn is_of_environment(error: &clap::Error, arguments: &[OsString]) -> bool {
    if !matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
    ) {
        return false;
    }
    match without_environment(command()).try_get_matches_from(arguments) {
        Ok(_) => true,
        Err(other) => other.to_string() != error.to_string(),
    }
}

fn without_environment(command: clap::Command) -> clap::Command {
    let no_name = |arg: clap::Arg| arg.env(Resettable::Reset);
    command.mut_args(no_name).mut_subcommands(without_environment)
}

/// Puts the name of the variable in the place of the argument that it stands for.
fn name_variable(error: &mut clap::Error, arguments: &[OsString]) {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return };
    let mut known = command();
    known.build();
    let mut innermost = &known;
    for word in arguments.iter().skip(1) {
        if let Some(found) = word.to_str().and_then(|word| innermost.find_subcommand(word)) {
            innermost = found;
        }
    }
    let argument = innermost.get_arguments().find(|arg| arg.to_string() == *name);
    let Some(variable) = argument.and_then(|arg| arg.get_env()) else { return };
    let said = format!("environment variable {}", variable.to_string_lossy());
    error.insert(ContextKind::InvalidArg, ContextValue::String(said));
}
