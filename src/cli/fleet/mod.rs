//! The program `lmdb-images-fleet`: the commands `ship` and `fleet` of `lmdb-images`, which starts it for them.

mod certificates;
mod collect;
mod query;
mod running;
mod ship;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, Parser, Subcommand};

use super::output::Failure;
use super::{logging, program, without_values};

/// The commands `ship` and `fleet` of lmdb-images
#[derive(Parser)]
#[command(name = "lmdb-images", bin_name = "lmdb-images", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ship(ship::Ship),
    Fleet(query::Fleet),
}

/// Returns the command line of the program.
pub(crate) fn command() -> clap::Command {
    without_values(Cli::command())
}

/// Runs the program and returns its exit status, which [`super::main`] describes.
pub fn main() -> ExitCode {
    program::run(std::env::args_os().collect(), command, run)
}

fn run(cli: Cli, _: &ArgMatches) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Ship(command) => Ok(command.run().map(|()| ExitCode::SUCCESS)?),
        Command::Fleet(command) => {
            if !command.is_service() {
                logging::start_for_command()?;
            }
            command.run()
        }
    }
}
