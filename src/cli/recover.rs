//! `lmdb-images recover`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::StoreArgs;
use super::output::{Failure, Output, note};
use crate::admin::recover;

/// Save the readable records of a damaged store
///
/// Copies every record with a correct checksum to a fresh store, which replaces the damaged one. Keeps the
/// damaged file as data.mdb.damaged-TIME. Does not change a store without damage. The daemon must be stopped.
///
/// Exits with 0 if nothing was lost, and with 1 if a record was lost or may be out of date.
#[derive(Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    root: StoreArgs,

    /// Write the fresh store to this folder and leave the damaged one unchanged
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Recover {
    /// Recovers the store, and prints the report.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let root = self.root.folder()?;
        let at = root.display();
        match &self.to {
            Some(to) => {
                note(format_args!("saving the store in {at} to a fresh store in {}", to.display()))
            }
            None => note(format_args!(
                "saving the store in {at} to a fresh store in its place; a damaged file is kept beside it"
            )),
        }
        let report = recover::run(&root, self.to.as_deref())?;
        let kept = match &report.backup {
            Some(kept) => Some(format!("the damaged file is kept as {kept}")),
            None if report.found.is_whole && self.to.is_none() => {
                Some("nothing is damaged: the store was left as it is".into())
            }
            None => None,
        };
        let mut out = Output::new();
        if self.json {
            out.line(report.json());
        } else {
            out.line(&report);
            kept.iter().for_each(|line| out.line(line));
        }
        let saved = format!("saved {} records", report.total());
        out.finish([Some(saved), kept].into_iter().flatten().collect::<Vec<_>>().join("; "))?;
        Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
