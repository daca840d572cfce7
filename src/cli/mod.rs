//! The command line: parses, starts logging, calls one function.

mod apply;
mod arguments;
mod backup;
mod bounded;
mod candidates;
mod change;
mod check;
mod compact;
mod completion;
mod config;
mod count;
mod daemon_args;
mod delegate;
mod diff;
mod explain;
mod export;
#[cfg(feature = "fleet")]
pub mod fleet;
mod health;
mod history;
mod import;
mod inspect;
mod list_format;
mod logging;
mod ls;
mod moment;
mod output;
mod paths;
mod program;
mod recover;
mod rescue;
mod restore;
mod serve;
mod settings;
mod settings_file;
mod span;
mod stat;
mod tag;
mod takeover;
mod text;
mod top;
mod undo;
mod watch;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::model::{Context, Error, Namespace, Result};
pub use completion::script as completion_script;
use output::Failure;
use settings_file::File;

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
    Count(count::Count),
    Watch(watch::Watch),
    History(history::History),
    Undo(undo::Undo),
    Tag(tag::Tag),
    Apply(apply::Apply),
    Explain(explain::Explain),
    Inspect(inspect::Inspect),
    Stat(stat::Stat),
    Check(check::Check),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Compact(compact::Compact),
    Recover(recover::Recover),
    Rescue(rescue::Rescue),
    Takeover(takeover::Takeover),
    Release(takeover::Release),
    Config(config::Config),
    Health(health::Health),
    Top(top::Top),
    Completion(completion::Completion),
}

/// Argument for the folder of the store.
#[derive(Args)]
struct StoreArgs {
    #[command(flatten)]
    file: File,

    /// Folder of the store [default: the daemon's, by its file of settings]
    #[arg(long, env = "LMDB_IMAGES_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
}

impl StoreArgs {
    /// Returns the folder, from the argument, the settings file or the default.
    fn folder(&self) -> Result<PathBuf> {
        self.file.check_flag()?;
        match &self.root {
            Some(root) => Ok(root.clone()),
            None => Ok(self.file.read()?.root.unwrap_or_else(paths::default_root)),
        }
    }
}

/// Argument for the containerd of an admin command.
#[derive(Args)]
struct ContainerdArgs {
    /// Socket of the containerd [default: the daemon's, or /run/containerd/containerd.sock]
    #[arg(long = "containerd", env = "LMDB_IMAGES_CONTAINERD", value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

impl ContainerdArgs {
    /// Returns the socket, from the argument, the settings file or the default.
    fn socket(&self, file: &File) -> Result<PathBuf> {
        let usual = || "/run/containerd/containerd.sock".into();
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(file.read()?.containerd.unwrap_or_else(usual)),
        }
    }
}

/// Argument for the namespace of an admin command.
#[derive(Args)]
struct NamespaceArg {
    /// The namespace, as for ctr
    #[arg(short, long, env = "CONTAINERD_NAMESPACE", default_value = "default", add = ArgValueCompleter::new(candidates::namespaces))]
    namespace: String,
}

impl NamespaceArg {
    /// Parses the namespace. The error names the flag or the variable that it came from.
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

/// Runs an async admin command on a runtime of its own.
fn block_on<T, E: From<Error>>(
    command: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    let mut done = None;
    drive(Box::pin(async { done = Some(command.await) }))?;
    done.unwrap_or_else(|| Err(Error::Internal("a command has not ended".into()).into()))
}

/// Runs a future of any command: the code of the runtime is in the program once, and not for each command.
fn drive(command: Pin<Box<dyn Future<Output = ()> + '_>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.or_internal("starting")?.block_on(command);
    Ok(())
}

/// Returns the command line of both programs. `tools/pages.rs` generates the manual pages from it.
#[cfg(feature = "fleet")]
pub fn command() -> clap::Command {
    let fleet = fleet::command();
    fleet.get_subcommands().fold(node_command(), |command, delegated| {
        command.mut_subcommand(delegated.get_name(), |_| delegated.clone())
    })
}

/// Returns the command line of `lmdb-images`, with the defaults of the settings in its help.
fn node_command() -> clap::Command {
    let command = Cli::command()
        .mut_subcommand("serve", settings::with_defaults)
        .mut_subcommand("config", |c| c.mut_subcommand("show", settings::with_defaults));
    delegate::with_commands(without_values(command))
}

/// Hides the values of environment variables from the help: they are external text.
fn without_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
}

/// Runs the program and returns its exit status:
///
/// - 0: done
/// - 1: the command failed with an error on stderr; or `diff` found a difference, `history` found nothing,
///   a command left records out, `apply` did not make every change, or the daemon is not serving (`health`)
/// - 2: the command line is wrong, or `check` failed
/// - 3: the daemon does not answer (`health`)
/// - 4: standard output could not be written
/// - 141: the reader of standard output closed the pipe
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Err(error) = delegate::delegate(&arguments) {
        return Failure::from(error).report();
    }
    program::run(arguments, node_command, run)
}

fn run(Cli { command }: Cli, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    if !matches!(&command, Command::Serve(_)) {
        logging::start_for_command()?;
    }
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Serve(command) => Ok(command.run(matches).map(done)?),
        Command::Import(command) => command.run(matches),
        Command::Export(command) => command.run(),
        Command::Diff(command) => command.run().map_err(Failure::without_result),
        Command::Ls(command) => command.run(),
        Command::Count(command) => command.run(),
        Command::Watch(command) => command.run().map(done),
        Command::History(command) => command.run().map_err(Failure::without_result),
        Command::Undo(command) => command.run().map(done),
        Command::Tag(command) => command.run().map(done),
        Command::Apply(command) => command.run(),
        Command::Explain(command) => command.run().map(done),
        Command::Inspect(command) => command.run().map(done),
        Command::Stat(command) => command.run().map(done),
        Command::Check(command) => command.run().map_err(Failure::without_result),
        Command::Backup(command) => command.run().map(done),
        Command::Restore(command) => command.run().map(done),
        Command::Compact(command) => command.run().map(done),
        Command::Recover(command) => command.run(),
        Command::Rescue(command) => command.run(),
        Command::Takeover(command) => command.run(),
        Command::Release(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Config(command) => command.run(matches).map(done),
        Command::Top(command) => command.run().map(done),
        Command::Completion(command) => command.run().map(done),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::node_command().debug_assert();
        #[cfg(feature = "fleet")]
        super::command().debug_assert();
    }
}
