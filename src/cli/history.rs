//! `lmdb-images history`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use go_compat::quote::quote;

use super::candidates::{images_anywhere, namespaces};
use super::change::{HEADS, cells, json};
use super::daemon_args::DaemonArgs;
use super::output::{Failure, StyledOutput, note};
use super::{block_on, moment, paths};
use crate::admin::history;
use crate::api::catalog::HistoryRequest;
use crate::api::catalog::history_request::Of;
use crate::clock;
use crate::model::{Error, Namespace, UnixTime};

/// Show the changes of an image, or of a digest
///
/// Prints the newest change first. SUBJECT is the name of an image, or a whole digest. For a digest, prints the
/// changes that gave this digest to an image or took it away. Asks the daemon; if none runs, reads the files of
/// the store. The columns are those of `watch`. The log keeps only the newest changes (setting log-keep); a
/// note says where it begins.
///
/// Example: lmdb-images history docker.io/library/app:latest --since 2h
///
/// Exits with 1 if it finds no change, and with 2 if the command failed.
#[derive(Args)]
pub(crate) struct History {
    /// Name of an image, or a digest
    #[arg(add = ArgValueCompleter::new(images_anywhere))]
    subject: String,

    /// Only changes in this namespace. May be repeated [default: all namespaces]
    #[arg(short, long = "namespace", value_name = "NAMESPACE", add = ArgValueCompleter::new(namespaces))]
    namespaces: Vec<String>,

    /// Only changes since this time: 90s, 30m, 2h, 7d ago, or a point in time such as 2026-11-28T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only changes before the change with this number
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    before: Option<u64>,

    /// Print at most this number of changes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Print one JSON object per line (docs/json.md)
    #[arg(long)]
    json: bool,

    /// Folder of the store, to read if no daemon runs and no --address is given [default: the daemon's, by its file of settings]
    #[arg(long, env = "LMDB_IMAGES_ROOT", value_name = "DIR")]
    root: Option<std::path::PathBuf>,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl History {
    /// Looks the changes up, and prints them.
    pub(crate) fn run(self) -> Result<std::process::ExitCode, Failure> {
        for namespace in &self.namespaces {
            Namespace::parse(namespace)?;
        }
        let since = self.since.as_deref().map(|since| {
            let at = moment::parse("--since", since, clock::display_time())?;
            let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or_default();
            Ok::<_, Error>(UnixTime { seconds: at.as_second(), nanos }.to_record())
        });
        if self.subject.is_empty() {
            let message = "the subject is empty: give the name of an image, or a whole digest";
            return Err(Error::InvalidArgument(message.into()).into());
        }
        let filters = self.filters();
        let is_digest = crate::model::digest::validate(&self.subject).is_ok();
        let sought = quote(&self.subject);
        let subject = if is_digest { Of::Digest } else { Of::Name };
        let request = HistoryRequest {
            of: Some(subject(self.subject)),
            namespaces: self.namespaces,
            before: self.before.unwrap_or_default(),
            since: since.transpose()?.into(),
            ..HistoryRequest::default()
        };
        let daemon = self.daemon.daemon()?;
        let (address, daemon_file) = (self.daemon.address.is_some(), self.daemon.file);
        let root = || match self.root {
            Some(root) => Ok(root),
            None => Ok(daemon_file.read()?.root.unwrap_or_else(paths::default_root)),
        };
        let found = block_on(history::run(
            &daemon,
            (!address).then_some(root),
            request,
            self.limit as usize,
        ))?;
        let mut out = StyledOutput::new();
        let is_empty = found.changes.is_empty();
        if self.json {
            for change in found.changes {
                out.text(&json(change)?)?;
            }
        } else if !is_empty {
            let rows: Vec<_> = found.changes.iter().map(cells).collect();
            out.table(&HEADS, &rows)?;
        }
        if found.has_more && !self.json {
            note(format_args!("lmdb-images: there are more; --limit or --before show them"));
        } else if found.first > 1 {
            note(format_args!(
                "lmdb-images: the log begins with change {}; it no longer has earlier changes",
                found.first
            ));
        }
        Ok(match is_empty {
            true => {
                let noun = if is_digest { "digest" } else { "image" };
                note(format_args!(
                    "lmdb-images: the log has no change of {noun} {sought}{filters}"
                ));
                std::process::ExitCode::FAILURE
            }
            false => std::process::ExitCode::SUCCESS,
        })
    }

    /// The flags that leave changes out, as the end of a sentence: " that fits --since and --before".
    fn filters(&self) -> String {
        let flags = [
            (self.since.is_some(), "--since"),
            (self.before.is_some(), "--before"),
            (!self.namespaces.is_empty(), "--namespace"),
        ];
        let given: Vec<_> =
            flags.iter().filter(|(given, _)| *given).map(|(_, flag)| *flag).collect();
        match given.as_slice() {
            [] => String::new(),
            [one] => format!(" that fits {one}"),
            [first @ .., last] => format!(" that fits {} and {last}", first.join(", ")),
        }
    }
}
