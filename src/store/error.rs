//! LMDB's failures as the crate's error.

use super::bounds::MAX_READERS;
use super::dir::disk_space;
use crate::model::Error;

/// Converts a failure of LMDB. `doing` names the failed operation in a few words.
pub(crate) fn lmdb_error(doing: &str, error: &heed::Error) -> Error {
    use heed::MdbError::{MapFull, Panic, ReadersFull};
    match error {
        heed::Error::Mdb(MapFull) => Error::ResourceExhausted(format!(
            "{doing}: the store has reached the size of its map; nothing was written"
        )),
        heed::Error::Mdb(ReadersFull) => Error::Unavailable(format!(
            "{doing}: all {MAX_READERS} reader slots are taken; try again"
        )),
        heed::Error::Mdb(Panic) => Error::Unavailable(format!(
            "{doing}: an earlier write to the disk failed and the store is opened again; try again"
        )),
        heed::Error::Io(e) if disk_space::is_full_error(e) => {
            Error::ResourceExhausted(format!("{doing}: the disk is full; nothing was written"))
        }
        other => Error::Internal(format!("{doing}: {other}")),
    }
}

/// The error if LMDB refuses the environment after a failed write.
pub(crate) fn environment_lost_error() -> Error {
    lmdb_error("beginning to read", &heed::Error::Mdb(heed::MdbError::Panic))
}
