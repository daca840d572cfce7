//! `lmdb-images inspect`.

use clap::Args;

use super::output::{Failure, pretty, print};
use super::{NamespaceArg, StoreArgs};
use crate::admin::ls;

/// Show the whole record of an image as JSON
///
/// Reads the files of the store. The daemon may keep running.
#[derive(Args)]
pub struct Inspect {
    /// Name of the image
    name: String,

    #[command(flatten)]
    namespace: NamespaceArg,

    #[command(flatten)]
    root: StoreArgs,
}

impl Inspect {
    /// Reads the record, and prints it.
    pub fn run(self) -> Result<(), Failure> {
        let namespace = self.namespace.parse()?;
        let record = pretty(&ls::get(&self.root.folder()?, &namespace, &self.name)?)?;
        print(|out| writeln!(out, "{record}"))
    }
}
