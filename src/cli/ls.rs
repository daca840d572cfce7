//! `lmdb-images ls`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use go_compat::quote::quote;
use indicatif::BinaryBytes;
use jiff::Timestamp;

use super::list_format::ListFormat;
use super::output::{Failure, note, print, report_error};
use super::text::{MAX_CELL_CHARS, cell, table, visible};
use super::{NamespaceArg, StoreArgs};
use crate::admin::image_json::ImageJson;
use crate::admin::ls::{self, Conditions, Listing, Page};
use crate::clock;
use crate::model::Error;

/// List images from the files of the store
///
/// Changes nothing. The daemon may keep running. FILTERs are those of `ctr images ls`: an image is listed
/// when any of them matches, for example name~=alpine or
/// labels.stage==production,target.digest~=^sha256:aa. Invisible characters are escaped, and a name with
/// one is put in quotes. The table shortens long texts in the middle.
///
/// Example: lmdb-images ls --limit 100 --after docker.io/library/b --without labels.team
///
/// Exits with 1 when damaged records are left out.
#[derive(Args)]
pub(crate) struct Ls {
    /// Filters of images
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    #[command(flatten)]
    namespace: NamespaceArg,

    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Only images whose digest is this or begins with it: sha256:ab12
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,

    /// Only images with this label: KEY for any value, or KEY=VALUE. If repeated, an image must have all of the
    /// labels
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,

    /// Leave out images that match this filter. If repeated, leave out images that match any of the filters
    #[arg(long, value_name = "FILTER")]
    without: Vec<String>,

    /// List at most this number of images; a note says how to list the next ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "all_namespaces")]
    limit: Option<u32>,

    /// Only images whose names come after this name; no image needs to have it
    #[arg(long, value_name = "NAME", conflicts_with = "all_namespaces")]
    after: Option<String>,

    /// Read this bolt file instead of the store: containerd's own, which is meta.db in
    /// /var/lib/containerd/io.containerd.metadata.v1.bolt, or a backup of it. containerd may run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["without", "limit", "after"])]
    bolt: Option<PathBuf>,

    /// Do not shorten long texts in the table: as -o wide
    #[arg(long, conflicts_with = "form")]
    no_trunc: bool,

    /// Print names only: as -o name
    #[arg(short, long, group = "form")]
    quiet: bool,

    /// Print one JSON object per line (docs/json.md): as -o json
    #[arg(long, group = "form")]
    json: bool,

    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", group = "form")]
    output: Option<Form>,

    /// Print a line of this text for each image, with fields in braces: '{name}\t{digest} {labels.stage}'. \t is a tab,
    /// \n a line end, {{ and }} are braces
    #[arg(long, value_name = "TEXT", group = "form")]
    format: Option<ListFormat>,

    #[command(flatten)]
    root: StoreArgs,
}

/// The output for each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table, with long texts shortened in the middle
    Table,
    /// The table with all texts in full
    Wide,
    /// Names only
    Name,
    /// One JSON object per line
    Json,
}

impl Ls {
    /// Reads the images, and prints them.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let one = self.namespace.parse()?;
        let namespace = (!self.all_namespaces).then_some(&one);
        let selection = Conditions { digest: self.digest.clone(), labels: self.labels.clone() };
        let filters = selection.filters(self.filters.clone())?;
        let page = Page {
            exclude: self.without.clone(),
            after: self.after.clone(),
            limit: self.limit.map(|limit| limit as usize),
        };
        let found = match &self.bolt {
            Some(file) => ls::list_bolt(file, namespace, &filters)?,
            None => ls::list(&self.root.folder()?, namespace, filters, &page)?,
        };
        print(|out| match self.form() {
            Form::Table => self.table(out, &found, MAX_CELL_CHARS),
            Form::Wide => self.table(out, &found, usize::MAX),
            form => self.lines(out, &found, form),
        })?;
        if let Some(last) = found.next_after() {
            note(format_args!("lmdb-images: there are more; --after {} shows them", quote(last)));
        }
        if found.left_out > 0 && self.bolt.is_some() {
            report_error(format_args!(
                "{} places of the file cannot be read: `lmdb-images import --bolt` names them",
                found.left_out
            ));
            return Ok(ExitCode::FAILURE);
        }
        if found.left_out > 0 {
            report_error(format_args!(
                "{} damaged records are left out: `lmdb-images check` names them, and `lmdb-images recover` \
                 saves the rest",
                found.left_out
            ));
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn form(&self) -> Form {
        match self.output {
            Some(form) => form,
            None if self.json => Form::Json,
            None if self.quiet => Form::Name,
            None if self.no_trunc => Form::Wide,
            // Its lines are those of the names, of another text.
            None if self.format.is_some() => Form::Name,
            None => Form::Table,
        }
    }

    fn lines(&self, out: &mut dyn Write, found: &Listing, form: Form) -> io::Result<()> {
        each(found, |image| {
            if let Some(format) = &self.format {
                writeln!(out, "{}", format.line(&image))
            } else if form == Form::Json {
                writeln!(out, "{}", serde_json::to_string(&image)?)
            } else if self.all_namespaces {
                writeln!(out, "{}\t{}", image.namespace, visible(&image.name))
            } else {
                writeln!(out, "{}", visible(&image.name))
            }
        })
    }

    fn table(&self, out: &mut dyn Write, found: &Listing, max: usize) -> io::Result<()> {
        let now = clock::display_time();
        let head = "NAME\tTYPE\tDIGEST\tSIZE\tCREATED\tUPDATED\tLABELS";
        let head = if self.all_namespaces { format!("NAMESPACE\t{head}") } else { head.into() };
        table(out, &head, |rows| {
            each(found, |image| {
                if self.all_namespaces {
                    write!(rows, "{}\t", image.namespace)?;
                }
                row(rows, &image, now, max)
            })
        })
    }
}

fn row(out: &mut dyn Write, image: &ImageJson, now: Timestamp, max: usize) -> io::Result<()> {
    let target = &image.target;
    let labels: Vec<_> = image.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let labels = if labels.is_empty() { "-".into() } else { labels.join(",") };
    writeln!(
        out,
        "{}\t{}\t{}\t{}\t{}\t{}\t{}",
        cell(&image.name, max),
        cell(&target.media_type, max),
        // A shortened digest is useless. The longest digest has 135 characters.
        cell(&target.digest, max.saturating_add(40)),
        BinaryBytes(target.size.try_into().unwrap_or_default()),
        image.created_at.map_or("-".into(), |at| ago(at, now)),
        image.updated_at.map_or("-".into(), |at| ago(at, now)),
        cell(&labels, max),
    )
}

/// Calls `to` for each record of a listing. A record that cannot be decoded is an error of the output.
fn each(found: &Listing, mut to: impl FnMut(ImageJson) -> io::Result<()>) -> io::Result<()> {
    /// An error of either side.
    struct Either(io::Error);
    impl From<Error> for Either {
        fn from(e: Error) -> Self {
            Self(io::Error::other(e))
        }
    }
    found.for_each(|record| to(record).map_err(Either)).map_err(|Either(e)| e)
}

/// Formats an age in its largest unit: `5m ago`.
fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second()).max(0);
    let units = [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    unit.map_or_else(
        || format!("{seconds}s ago"),
        |(length, u)| format!("{}{u} ago", seconds / length),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let at = Timestamp::from_second(1_000_000_000).unwrap();
        for (seconds, said) in [
            (-5, "0s ago"),
            (0, "0s ago"),
            (59, "59s ago"),
            (60, "1m ago"),
            (7_199, "1h ago"),
            (86_400, "1d ago"),
            (800 * 86_400, "2y ago"),
        ] {
            assert_eq!(ago(at, Timestamp::from_second(1_000_000_000 + seconds).unwrap()), said);
        }
    }
}
