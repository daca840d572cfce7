//! `lmdb-images explain`.

use clap::Args;

use super::output::{Failure, print};
use super::{NamespaceArg, StoreArgs};
use crate::admin::explain;

/// Show how a list with filters finds its images
///
/// An image matches if any FILTER matches, as for `ls`. The index finds names, digests and labels that a
/// filter compares by ==, and names and digests that it compares by ~= with a pattern that begins with ^
/// and plain text. If every filter has such a part, the list reads only the images found by the index;
/// otherwise it reads every image. If there is a store, the output has the number of images read.
#[derive(Args)]
pub(crate) struct Explain {
    /// Filters of images
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    #[command(flatten)]
    namespace: NamespaceArg,

    /// Print JSON (docs/json.md)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    root: StoreArgs,
}

impl Explain {
    /// Plans the list, and prints the plan.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let namespace = self.namespace.parse()?;
        let explained = explain::run(&self.root.folder()?, &namespace, &self.filters)?;
        print(|out| match self.json {
            true => writeln!(out, "{:#}", explained.json()),
            false => writeln!(out, "{explained}"),
        })
    }
}
