//! A file that no process writes, which may be damaged.

use crate::meta;
use crate::{Damage, ReadAt, Snapshot};

/// A file that no process writes while it is read.
///
/// Nothing is believed of it: no page is read twice, and where a page cannot be read a walk names
/// the keys that are missing and goes on behind them.
pub struct FileAtRest<'s, S: ?Sized> {
    snapshot: Snapshot<'s, S>,
    other_meta: Option<Damage>,
}

impl<'s, S: ReadAt + ?Sized> FileAtRest<'s, S> {
    /// Reads the meta pages.
    ///
    /// # Errors
    /// The size of the file cannot be had, or neither meta page is whole.
    pub fn open(source: &'s S) -> Result<Self, Damage> {
        let size_unknown = |e| Damage::new(0, format!("the size of the file cannot be had: {e}"));
        let size = source.size().map_err(size_unknown)?;
        let (meta, other_meta) = meta::newest(source)?;
        Ok(Self { snapshot: Snapshot::at_rest(source, meta, size), other_meta })
    }

    /// The state of the last transaction whose meta page is whole.
    pub fn snapshot(&self) -> &Snapshot<'s, S> {
        &self.snapshot
    }

    /// The damage of the other meta page: if there is any, the last transaction may be
    /// missing.
    pub fn other_meta(&self) -> Option<&Damage> {
        self.other_meta.as_ref()
    }
}
