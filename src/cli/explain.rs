//! `lmdb-images explain`.

use clap::Args;

use super::output::{Failure, print};
use super::{NamespaceArg, StoreArgs};
use crate::admin::explain;

/// Show how images that match filters are found
///
/// One FILTER at least must match, as for `ls`. Names, digests and labels are looked up when a filter
/// asks for them by ==, and names and digests also by ~= with a pattern that begins with ^ and plain
/// text. If every filter has such a part, only what is found so is looked at; otherwise every image.
/// Where there is a store it says how many that are.
#[derive(Args)]
pub struct Explain {
    /// Which images
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    #[command(flatten)]
    space: NamespaceArg,

    /// As JSON (docs/json.md)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    root: StoreArgs,
}

impl Explain {
    /// Plans, and prints the plan.
    pub fn run(self) -> Result<(), Failure> {
        let namespace = self.space.parse()?;
        let explained = explain::run(&self.root.folder()?, &namespace, &self.filters)?;
        print(|out| match self.json {
            true => writeln!(out, "{:#}", explained.json()),
            false => writeln!(out, "{explained}"),
        })
    }
}
