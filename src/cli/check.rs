//! `lmdb-images check`.

use std::process::ExitCode;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, note, print, report_error};
use crate::admin::check;

/// Verify the store's integrity
///
/// Checks every page of the file, every record and its checksum, and that the index agrees with the
/// records. Reads one snapshot and changes nothing. The daemon may keep running.
///
/// Exits with 0 when the store is whole, 1 when something is damaged, 2 when the check failed.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    root: StoreArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Checks, and prints the report.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let report = self.root.folder().and_then(|root| {
            note(format_args!("checking the store in {}", root.display()));
            check::run(&root)
        });
        match report {
            Ok(report) => {
                let text = if self.json { report.json() } else { report.to_string() };
                print(|out| writeln!(out, "{text}"))?;
                Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(e) => {
                report_error(e);
                Ok(ExitCode::from(2))
            }
        }
    }
}
