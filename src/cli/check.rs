//! `lmdb-images check`.

use std::process::ExitCode;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, note, print, report_error};
use crate::admin::check;

/// Look whether the store is whole
///
/// Every page of the file, every record and its checksum, and that the index agrees with the records.
/// It reads one state, also beside a running daemon, and changes nothing.
///
/// Exits with 0 when the store is whole, 1 when something is damaged, 2 when it could not be looked at.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    root: StoreArgs,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Looks, and prints what was found.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let looked = self.root.folder().and_then(|root| {
            note(format_args!("checking the store in {}", root.display()));
            check::run(&root)
        });
        match looked {
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
