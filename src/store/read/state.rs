//! One state of the store, as lookups and scans read it.

use super::view::View;
use crate::model::{Error, Result};
use crate::store::schema::table::Table;
use crate::store::schema::value;

/// A state that lookups and scans read. The trait hides heed from other modules than the store.
pub trait ReadState {
    /// The state.
    fn view(&self) -> &View<'_>;
}

impl ReadState for View<'_> {
    fn view(&self) -> &View<'_> {
        self
    }
}

/// The reason why a record cannot be read.
pub(crate) enum RecordFault {
    Damaged,
    Store(Error),
}

impl RecordFault {
    pub(crate) fn into_error(self, what: impl FnOnce() -> String) -> Error {
        match self {
            Self::Damaged => damaged(&what()),
            Self::Store(error) => error,
        }
    }
}

/// The message under a key of a record.
pub(crate) fn get<'t>(
    state: &'t (impl ReadState + ?Sized),
    key: &[u8],
) -> Result<Option<&'t [u8]>, RecordFault> {
    let value = state.view().get(Table::Records, key).map_err(RecordFault::Store)?;
    value.map(|value| value::decode(key, value)).transpose().map_err(|_| RecordFault::Damaged)
}

pub(crate) fn damaged(what: &str) -> Error {
    Error::DataLoss(format!("{what} is damaged in the store: its checksum is wrong"))
}
