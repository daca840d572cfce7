//! The command line: parses, starts logging, calls one function.

mod arguments;
mod backup;
mod bounded;
mod check;
mod compact;
mod config;
mod diff;
mod explain;
mod export;
mod health;
mod import;
mod inspect;
mod logging;
mod ls;
mod output;
mod paths;
mod recover;
mod restore;
mod serve;
mod settings;
mod stat;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand};

use crate::model::{Error, Namespace, Result};
use output::Failure;
use settings::File;

/// containerd's Images service over LMDB, on ttrpc and gRPC
#[derive(Parser)]
#[command(name = "lmdb-images", bin_name = "lmdb-images", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Import(import::Import),
    Export(export::Export),
    Diff(diff::Diff),
    Ls(ls::Ls),
    Explain(explain::Explain),
    Inspect(inspect::Inspect),
    Stat(stat::Stat),
    Check(check::Check),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Compact(compact::Compact),
    Recover(recover::Recover),
    Config(config::Config),
    Health(health::Health),
}

/// Where the store is.
#[derive(Args)]
struct StoreArgs {
    #[command(flatten)]
    file: File,

    /// Folder of the store [default: the daemon's, by its file of settings]
    #[arg(long, env = "LMDB_IMAGES_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
}

impl StoreArgs {
    /// The folder.
    fn folder(&self) -> Result<PathBuf> {
        match &self.root {
            Some(root) => Ok(root.clone()),
            None => Ok(self.file.read()?.root.unwrap_or_else(paths::default_root)),
        }
    }
}

/// Which containerd an admin's command speaks to.
#[derive(Args)]
struct ContainerdArgs {
    /// Socket of the containerd [default: the daemon's, or /run/containerd/containerd.sock]
    #[arg(long = "containerd", env = "LMDB_IMAGES_CONTAINERD", value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

impl ContainerdArgs {
    /// The socket.
    fn socket(&self, file: &File) -> Result<PathBuf> {
        let usual = || "/run/containerd/containerd.sock".into();
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(file.read()?.containerd.unwrap_or_else(usual)),
        }
    }
}

/// Which namespace an admin's command looks into.
#[derive(Args)]
struct NamespaceArg {
    /// The namespace, as for ctr
    #[arg(short, long, env = "CONTAINERD_NAMESPACE", default_value = "default")]
    namespace: String,
}

impl NamespaceArg {
    /// The namespace.
    fn parse(&self) -> Result<Namespace> {
        Namespace::parse(&self.namespace).map_err(|e| {
            let named = std::env::var("CONTAINERD_NAMESPACE");
            let by = if named.is_ok_and(|named| named == self.namespace) {
                "CONTAINERD_NAMESPACE"
            } else {
                "--namespace"
            };
            Error::InvalidArgument(format!("{by}: {e}"))
        })
    }
}

/// Waits for what an admin's command does.
fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("starting: {e}")))?
        .block_on(command)
}

/// The command line, with the defaults of the settings in its help; the manual pages and the
/// completions of shells are made of it (`tools/pages.rs`).
pub fn command() -> clap::Command {
    let command = Cli::command()
        .mut_subcommand("serve", settings::with_defaults)
        .mut_subcommand("config", |c| c.mut_subcommand("show", settings::with_defaults));
    without_values(command)
}

/// The help names environment variables, and not what they hold: that is text from outside.
fn without_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
}

/// Runs the program. 0: done; 1: it failed, with a sentence on stderr, or `diff` found something, or
/// something was left out, or `health` heard that the daemon is not serving; 2: the command line is
/// wrong; 3: `health` got no answer; 4: standard output could not be written; 141: its reader closed it.
pub fn main() -> ExitCode {
    let parsed = arguments::parse(std::env::args_os().collect());
    let ended = parsed.and_then(|(cli, matches)| run(cli.command, &matches));
    ended.unwrap_or_else(|failure| failure.report())
}

fn run(command: Command, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    if !matches!(command, Command::Serve(_)) {
        logging::start_for_command()?;
    }
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Serve(command) => Ok(command.run(matches).map(done)?),
        Command::Import(command) => command.run(matches),
        Command::Export(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Explain(command) => command.run().map(done),
        Command::Inspect(command) => command.run().map(done),
        Command::Stat(command) => command.run().map(done),
        Command::Check(command) => command.run(),
        Command::Backup(command) => command.run().map(done),
        Command::Restore(command) => command.run().map(done),
        Command::Compact(command) => command.run().map(done),
        Command::Recover(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Config(command) => command.run(matches).map(done),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
