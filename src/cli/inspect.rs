//! `lmdb-images inspect`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::candidates::images;
use super::output::{Failure, print};
use super::text::pretty;
use super::{NamespaceArg, StoreArgs};
use crate::admin::ls;

/// Show the whole record of an image as JSON
///
/// Reads the files of the store. The daemon may keep running.
#[derive(Args)]
pub(crate) struct Inspect {
    /// Name of the image
    #[arg(add = ArgValueCompleter::new(images))]
    name: String,

    #[command(flatten)]
    namespace: NamespaceArg,

    #[command(flatten)]
    root: StoreArgs,
}

impl Inspect {
    /// Reads the record, and prints it.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let namespace = self.namespace.parse()?;
        let record = pretty(&ls::get(&self.root.folder()?, &namespace, &self.name)?)?;
        print(|out| writeln!(out, "{record}"))
    }
}
