//! `lmdb-images count`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::output::{Failure, print, report_error};
use super::{NamespaceArg, StoreArgs};
use crate::admin::count;
use crate::admin::ls::Conditions;
use crate::api::catalog::CountRequest;

/// Count images
///
/// Reads the files of the store. The daemon may keep running. FILTERs are those of `ls`: an image counts
/// when any of them matches.
///
/// Example: lmdb-images count -A --without 'labels.team'
///
/// Exits with 1 if damaged records are left out of the count.
#[derive(Args)]
pub(crate) struct Count {
    /// Filters of images
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    /// Only images with this label: KEY for any value, or KEY=VALUE. If repeated, an image must have all of the
    /// labels
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,

    /// Leave out images that match this filter. If repeated, leave out images that match any of the filters
    #[arg(long, value_name = "FILTER")]
    without: Vec<String>,

    #[command(flatten)]
    namespace: NamespaceArg,

    /// Count in all namespaces, and print one line for each
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Print one JSON object per line: namespace, count, and damaged
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    root: StoreArgs,
}

impl Count {
    /// Counts, and prints the numbers.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let one = self.namespace.parse()?;
        let namespace = (!self.all_namespaces).then_some(&one);
        let conditions = Conditions { digest: None, labels: self.labels };
        let request = CountRequest {
            filters: conditions.filters(self.filters)?,
            without: self.without,
            ..CountRequest::default()
        };
        let found = count::run(&self.root.folder()?, namespace, &request)?;
        let damaged: u64 = found.iter().map(|(_, found)| found.damaged).sum();
        print(|out| {
            for (namespace, found) in &found {
                match (self.json, self.all_namespaces) {
                    (true, _) => writeln!(
                        out,
                        "{}",
                        json!({
                            "namespace": namespace.as_str(),
                            "count": found.count,
                            "damaged": found.damaged,
                        })
                    )?,
                    (false, true) => writeln!(out, "{namespace}\t{}", found.count)?,
                    (false, false) => writeln!(out, "{}", found.count)?,
                }
            }
            Ok(())
        })?;
        if damaged > 0 {
            report_error(format_args!(
                "{damaged} damaged records are not counted: `lmdb-images check` names them, and \
                 `lmdb-images recover` saves the rest"
            ));
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}
