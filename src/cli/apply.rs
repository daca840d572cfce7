//! `lmdb-images apply`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::daemon_args::DaemonArgs;
use super::output::{Failure, print, report_error};
use super::text::visible;
use super::{NamespaceArg, block_on};
use crate::admin::{batch, file};
use crate::api::catalog::{ApplyItem, ApplyResponse};
use crate::model::Error;

/// The longest file, in bytes: what a message carries.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Change several images at once
///
/// Calls the daemon. FILE has one change per line, as JSON. {"put": IMAGE} creates or replaces an image, with
/// IMAGE as `ls --json` prints it; with "mask": ["labels.stage"], it replaces only these fields. {"remove":
/// NAME} removes an image. A change may have a condition: "if": {"absent": true}, {"digest": "sha256:…"} or
/// {"etag": "…"}. The daemon makes all changes or none. In front of a containerd, it can do so only for a FILE
/// with one change; --allow-partial makes each change separately.
///
/// Example of a FILE: {"remove": "docker.io/library/app:1.3", "if": {"digest": "sha256:…"}}
///
/// Exits with 1 if a change was not made.
#[derive(Args)]
pub(crate) struct Apply {
    /// File with one change per line
    file: PathBuf,

    /// Make each change separately: some may succeed and others fail
    #[arg(long)]
    allow_partial: bool,

    /// Print one JSON object per change: name, etag and seq, or error
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    namespace: NamespaceArg,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Apply {
    /// Has the daemon make the changes, and prints what became of each.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let namespace = self.namespace.parse()?;
        let missing = || Error::NotFound(format!("{}: there is no such file", self.file.display()));
        let (_, text) = file::read_text(&self.file, MAX_FILE_BYTES)?.ok_or_else(missing)?;
        let place = self.file.display().to_string();
        let mut request = batch::parse(&text, &namespace).map_err(|e| e.at(place))?;
        request.allow_partial = self.allow_partial;
        let names: Vec<_> = request.items.iter().map(name).collect();
        let daemon = self.daemon.daemon()?;
        let path = "/lmdbimages.v1.Catalog/Apply";
        let done: ApplyResponse = block_on(daemon.call(path, Some(&namespace), request))?;
        let failed = done.results.iter().filter(|result| result.status.code != 0).count();
        print(|out| {
            for (name, result) in names.iter().zip(&done.results) {
                let error = Some(&result.status.message).filter(|_| result.status.code != 0);
                match (self.json, error) {
                    (true, Some(error)) => {
                        writeln!(out, "{}", json!({ "name": name, "error": error }))?;
                    }
                    (true, None) => writeln!(
                        out,
                        "{}",
                        json!({ "name": name, "etag": result.etag, "seq": result.seq })
                    )?,
                    (false, Some(error)) => writeln!(out, "{}\t{error}", visible(name))?,
                    (false, None) => writeln!(out, "{}\tdone", visible(name))?,
                }
            }
            Ok(())
        })
        .map_err(|failure| {
            let (made, all) = (names.len() - failed, names.len());
            failure.after(format_args!("{made} of {all} changes were made"))
        })?;
        if failed > 0 {
            report_error(format_args!("{failed} of {} changes were not made", names.len()));
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name(item: &ApplyItem) -> String {
    match item.has_put() {
        true => item.put().image.name.clone(),
        false => item.remove().name.clone(),
    }
}
