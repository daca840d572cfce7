//! `lmdb-images undo`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::candidates::images;
use super::change::{HEADS, cells, json};
use super::daemon_args::DaemonArgs;
use super::output::{Failure, StyledOutput, note};
use super::{NamespaceArg, block_on, moment};
use crate::api::catalog::undo_request::{To, What};
use crate::api::catalog::{UndoRequest, UndoResponse};
use crate::clock;
use crate::model::{Error, UnixTime};

/// Undo a change of an image
///
/// Calls the daemon. SEQ is the number of a change, as `history` and `watch` print it. With NAME, the name of
/// an image, `undo` takes back the newest change of the image; with --to, the image gets the state that it had
/// after that change or at that time. An undo is itself a change and can be undone. The daemon refuses an undo
/// if the image has changed since. In front of a containerd, it also refuses an undo if containerd no longer
/// has the content.
///
/// Example: lmdb-images undo docker.io/library/app:latest --to 2h --dry-run
///
/// Exits with 1 if the daemon refuses the undo.
#[derive(Args)]
pub(crate) struct Undo {
    /// Number of a change, or name of an image
    #[arg(add = ArgValueCompleter::new(images))]
    #[arg(value_name = "SEQ|NAME")]
    what: String,

    /// With NAME: give the image the state after this change, or at this time (30m or 2h ago, or
    /// 2026-11-28T12:00:00Z)
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<String>,

    /// Print the change, and do not make it
    #[arg(long)]
    dry_run: bool,

    /// Undo the change even if the image has changed since
    #[arg(long)]
    force: bool,

    /// Print one JSON object: the change (docs/json.md)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    namespace: NamespaceArg,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Undo {
    /// Has the daemon undo, and prints the change that was made.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let what = match self.what.parse() {
            Ok(seq) => What::Seq(seq),
            Err(_) => What::Name(self.what.clone()),
        };
        if matches!(what, What::Seq(_)) && self.to.is_some() {
            return Err(Error::InvalidArgument(
                "--to goes with the name of an image only: the number of a change says already which state \
                 is meant"
                    .into(),
            )
            .into());
        }
        let request = UndoRequest {
            what: Some(what),
            to: self.to.as_deref().map(to).transpose()?,
            dry_run: self.dry_run,
            force: self.force,
            ..UndoRequest::default()
        };
        let (daemon, namespace) = (self.daemon.daemon()?, self.namespace.parse()?);
        let path = "/lmdbimages.v1.Catalog/Undo";
        let done: UndoResponse = block_on(daemon.call(path, Some(&namespace), request))?;
        let Some(change) = done.change.into_option() else {
            note("lmdb-images: nothing to do: the image has that state already");
            return Ok(());
        };
        let done = match self.dry_run {
            true => "nothing was changed".to_owned(),
            false => format!("the undo is made, as change {}", change.seq),
        };
        let mut out = StyledOutput::new();
        let printed = match self.json {
            true => out.text(&json(change)?),
            false => out.table(&HEADS, &[cells(&change)]),
        };
        printed.map_err(|e| Failure::from(e).after(done))
    }
}

fn to(text: &str) -> Result<To, Error> {
    if let Ok(seq) = text.parse() {
        return Ok(To::ToSeq(seq));
    }
    let at = moment::parse("--to", text, clock::display_time())?;
    let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or_default();
    Ok(To::ToTime(UnixTime { seconds: at.as_second(), nanos }.to_record()))
}
