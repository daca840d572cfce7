//! `lmdb-images check`.

use std::process::ExitCode;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, note, print};
use super::text::visible;
use crate::admin::{check, names};
use crate::model::printable::one_line;

/// Verify the store's integrity
///
/// Checks every page of the file, every record and its checksum, and that the index agrees with the
/// records. Reads one snapshot and changes nothing. The daemon may keep running.
///
/// Exits with 0 if the store is whole, with 1 if it is damaged, and with 2 if the check failed. With --names,
/// exits with 1 if it lists a name.
#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    root: StoreArgs,

    /// List the names that docker and CRI cannot show or find, with the reason, and check nothing else
    #[arg(long)]
    names: bool,

    /// Print one JSON object; with --names, one object per line
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Checks, and prints the report.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        if self.names {
            return self.list_names();
        }
        let root = self.root.folder()?;
        note(format_args!("checking the store in {}", root.display()));
        let report = check::run(&root)?;
        let text = if self.json { report.json() } else { report.to_string() };
        print(|out| writeln!(out, "{text}"))?;
        Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn list_names(&self) -> Result<ExitCode, Failure> {
        let found = names::run(&self.root.folder()?)?;
        print(|out| {
            found.iter().try_for_each(|finding| {
                if self.json {
                    return writeln!(out, "{}", finding.json());
                }
                let fault = one_line(&finding.fault.to_string());
                writeln!(out, "{}\t{}\t{fault}", finding.namespace, visible(&finding.name))
            })
        })?;
        Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
