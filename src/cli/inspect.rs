//! `lmdb-images inspect`.

use clap::Args;

use super::output::{Failure, pretty, print};
use super::{NamespaceArg, StoreArgs};
use crate::admin::ls;

/// Show the whole record of an image, as JSON
///
/// Read from the files of the store, beside a running daemon or without one.
#[derive(Args)]
pub struct Inspect {
    /// The image
    name: String,

    #[command(flatten)]
    space: NamespaceArg,

    #[command(flatten)]
    root: StoreArgs,
}

impl Inspect {
    /// Reads, then prints.
    pub fn run(self) -> Result<(), Failure> {
        let namespace = self.space.parse()?;
        let record = pretty(&ls::get(&self.root.folder()?, &namespace, &self.name)?)?;
        print(|out| writeln!(out, "{record}"))
    }
}
