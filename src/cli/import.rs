//! `lmdb-images import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::{Containerd, Root, command, wait};
use crate::admin::import;
use crate::model::Result;

/// Copy the image records and namespaces of a containerd into the store
///
/// Times are kept. What the store holds beside them stays, and a second run changes nothing. No
/// daemon may serve the store meanwhile. Exits with 1 when something was left out by --salvage.
#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    containerd: Containerd,

    /// Read this bolt file instead, while no containerd runs: containerd's own, which is meta.db in
    /// /var/lib/containerd/io.containerd.metadata.v1.bolt, or a backup of it
    #[arg(long, value_name = "FILE")]
    bolt: Option<PathBuf>,

    /// Of a damaged bolt file import what can be read, and name what cannot
    #[arg(long, requires = "bolt")]
    salvage: bool,
}

impl Import {
    /// Copies, and prints one line of what was done. `matches` are those of the whole command line.
    pub fn run(self, matches: &ArgMatches) -> Result<ExitCode> {
        if self.bolt.is_some() {
            refuse_containerd(matches);
        }
        let root = self.root.folder()?;
        let Some(file) = &self.bolt else {
            let containerd = self.containerd.socket(&self.root.file)?;
            let summary = wait(import::live::run(&root, &containerd))?;
            println!("imported {summary}");
            return Ok(ExitCode::SUCCESS);
        };
        let done = import::bolt::run(&root, file, self.salvage)?;
        println!("imported {}", done.summary);
        for lost in &done.lost {
            eprintln!("not imported: {lost}");
        }
        Ok(if done.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Ends the program, as clap does, when --containerd is given beside --bolt. `conflicts_with` would
/// count the variable too, which may stand in anybody's environment for the other commands.
fn refuse_containerd(matches: &ArgMatches) {
    let source = matches.subcommand().and_then(|(_, import)| import.value_source("socket"));
    if source == Some(ValueSource::CommandLine) {
        let mut all = command();
        all.build();
        let mut import = all.find_subcommand("import").cloned().unwrap_or(all);
        let said = "the argument '--bolt <FILE>' cannot be used with '--containerd <SOCKET>'";
        import.error(ErrorKind::ArgumentConflict, said).exit();
    }
}
