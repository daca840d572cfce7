//! `lmdb-images import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::output::{Failure, Output, note};
use super::text::visible;
use super::{ContainerdArgs, StoreArgs, arguments, block_on, node_command};
use crate::admin::import;
use crate::admin::import::containerd_scan::Guess;

/// Copy the image records and namespaces of a containerd into the store
///
/// Keeps the times of the records. Keeps records that only the store has. A second run changes nothing. The
/// daemon must be stopped. Exits with 1 if --salvage left a record out, or found one that it is not sure of.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    root: StoreArgs,

    #[command(flatten)]
    containerd: ContainerdArgs,

    /// Read this bolt file instead: containerd's own, which is meta.db in
    /// /var/lib/containerd/io.containerd.metadata.v1.bolt, or a backup of it. containerd may run
    #[arg(long, value_name = "FILE")]
    bolt: Option<PathBuf>,

    /// Import the readable records of a damaged bolt file, and list the lost ones. If the list of buckets or
    /// both meta pages are lost, search every page for images, and print how certain each image is
    #[arg(long, requires = "bolt")]
    salvage: bool,
}

impl Import {
    /// Imports, and prints a summary. `matches` are those of the whole command line.
    pub(crate) fn run(self, matches: &ArgMatches) -> Result<ExitCode, Failure> {
        if self.bolt.is_some() {
            refuse_containerd(matches)?;
        }
        let root = self.root.folder()?;
        let Some(file) = &self.bolt else {
            let containerd = self.containerd.socket(&self.root.file)?;
            let summary = block_on(import::live::run(&root, &containerd))?;
            return print_summary(&summary).map(|()| ExitCode::SUCCESS);
        };
        let done = import::bolt::run(&root, file, self.salvage)?;
        for lost in &done.unreadable {
            note(format_args!("not imported: {lost}"));
        }
        for Guess { namespace, image, certainty } in &done.guesses {
            note(format_args!(
                "found at a page by itself: namespace {namespace}: image {} {}: {certainty}",
                visible(&image.name),
                image.target.digest
            ));
        }
        print_summary(&done.summary)?;
        Ok(if done.guesses.is_empty() && done.unreadable.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn print_summary(summary: &import::Summary) -> Result<(), Failure> {
    let mut out = Output::new();
    out.line(format_args!("imported {summary}"));
    out.finish(format_args!("imported {summary}"))
}

/// Refuses --containerd beside --bolt, with clap's error. clap's `conflicts_with` would also refuse the
/// environment variable, which may be set for the other commands.
fn refuse_containerd(matches: &ArgMatches) -> Result<(), Failure> {
    let source = matches.subcommand().and_then(|(_, import)| import.value_source("socket"));
    if source == Some(ValueSource::CommandLine) {
        let mut all = node_command();
        all.build();
        let mut import = all.find_subcommand("import").cloned().unwrap_or(all);
        let message = "the argument '--bolt <FILE>' cannot be used with '--containerd <SOCKET>'";
        return Err(arguments::print_and_exit(import.error(ErrorKind::ArgumentConflict, message)));
    }
    Ok(())
}
