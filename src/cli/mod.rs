//! The command line: parses, starts logging, calls one function.

mod diff;
mod import;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::model::{Error, Result};

/// What is logged when RUST_LOG says nothing. The libraries' own lines are about clients that
/// misbehave, which is nothing to act on; what is, we log ourselves.
const DEFAULT_LOG: &str = "info,ttrpc=off,h2=off,hyper=off";

/// containerd's Images service over LMDB, on ttrpc and gRPC
#[derive(Parser)]
#[command(name = "lmdb-images", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Import(import::Import),
    Diff(diff::Diff),
}

/// Where the store is.
#[derive(Args)]
struct Root {
    /// Folder of the store
    #[arg(long, env = "LMDB_IMAGES_ROOT", value_name = "DIR", default_value_os_t = default_root())]
    root: PathBuf,
}

/// Which containerd an admin's command speaks to.
#[derive(Args)]
struct Containerd {
    /// Socket of the containerd
    #[arg(
        long = "containerd",
        env = "LMDB_IMAGES_CONTAINERD",
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    socket: PathBuf,
}

/// Waits for what an admin's command does.
fn wait<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("starting: {e}")))?
        .block_on(command)
}

/// Runs the program. 0: done; 1: it failed, with a sentence on stderr, or `diff` found something; 2:
/// the command line is wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(DEFAULT_LOG))
        .format_target(false)
        .init();
    let done: Result<ExitCode> = match cli.command {
        Command::Serve(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Import(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Diff(command) => command.run(),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("lmdb-images: {e}");
            ExitCode::FAILURE
        }
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `<$variable>/lmdb-images`, when the variable holds an absolute path as the XDG rules want it.
fn xdg(variable: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(variable)?);
    folder.is_absolute().then(|| folder.join("lmdb-images"))
}

fn default_root() -> PathBuf {
    let system = PathBuf::from("/var/lib/lmdb-images");
    if is_root() {
        return system;
    }
    let home = || std::env::home_dir().map(|home| home.join(".local/share/lmdb-images"));
    xdg("XDG_DATA_HOME").or_else(home).unwrap_or(system)
}

fn default_state() -> PathBuf {
    let system = PathBuf::from("/run/lmdb-images");
    if is_root() { system } else { xdg("XDG_RUNTIME_DIR").unwrap_or(system) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
