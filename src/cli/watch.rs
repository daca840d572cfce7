//! `lmdb-images watch`.

use clap::Args;

use super::block_on;
use super::change::{cells, json};
use super::daemon_args::DaemonArgs;
use super::output::{Failure, StyledOutput, note};
use crate::admin::watch::{self, StartPosition, WatchEvent};
use crate::api::catalog::WatchRequest;
use crate::model::Namespace;

/// Print each change of an image when it happens
///
/// Calls the daemon. Prints a change if the image matches any FILTER before or after the change; FILTERs are
/// those of `ls`. The columns are: number, time in UTC, namespace, name, digest before and after, program and
/// user, origin. If the daemon restarts, `watch` waits for it and continues without a gap. If the log has lost
/// changes meanwhile, `watch` says so, prints every present image with "=", and then continues.
///
/// Example: lmdb-images watch --all 'name~=^docker\.io/library/'
///
/// Runs until you interrupt it. Exits with 1 if it cannot reach the daemon at its start, or if the daemon
/// refuses the call.
#[derive(Args)]
pub(crate) struct Watch {
    /// Filters of images
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    /// Only changes in this namespace. May be repeated [default: all namespaces]
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,

    /// Begin with the change of this number
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
    from: Option<u64>,

    /// Begin with the oldest change in the log
    #[arg(long)]
    all: bool,

    /// Print one JSON object per line (docs/json.md)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Watch {
    /// Follows the changes, and prints them.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let daemon = self.daemon.daemon()?;
        for namespace in &self.namespaces {
            Namespace::parse(namespace)?;
        }
        let from = match (self.from, self.all) {
            (Some(seq), _) => StartPosition::Seq(seq),
            (None, true) => StartPosition::Oldest,
            (None, false) => StartPosition::Now,
        };
        let request = WatchRequest {
            namespaces: self.namespaces,
            filters: self.filters,
            ..WatchRequest::default()
        };
        let mut out = StyledOutput::new();
        let print = |event| match event {
            WatchEvent::Change(change) if self.json => Ok(out.text(&json(*change)?)?),
            WatchEvent::Change(change) => Ok(out.line(&cells(&change))?),
            WatchEvent::Note(text) => {
                note(format_args!("lmdb-images: {text}"));
                Ok(())
            }
        };
        block_on(watch::run(&daemon, from, request, print))
    }
}
