//! `lmdb-images inspect`.

use clap::Args;

use super::output::{pretty, print};
use super::{Root, Space};
use crate::admin::ls;
use crate::model::{Namespace, Result};

/// Show the whole record of an image, as JSON
///
/// Read from the files of the store, beside a running daemon or without one.
#[derive(Args)]
pub struct Inspect {
    /// The image
    name: String,

    #[command(flatten)]
    space: Space,

    #[command(flatten)]
    root: Root,
}

impl Inspect {
    /// Reads, then prints.
    pub fn run(self) -> Result<()> {
        let namespace = Namespace::parse(&self.space.namespace)?;
        let record = pretty(&ls::get(&self.root.folder()?, &namespace, &self.name)?)?;
        print(|out| writeln!(out, "{record}"))
    }
}
