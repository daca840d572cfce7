//! Opening an LMDB environment, and taking snapshots of it.

use std::path::Path;

use heed::{Env, EnvOpenOptions, RoTxn, WithoutTls};

use super::reader_table;
use crate::model::Result;
use crate::store::bounds::{MAP_SIZE, MAX_READERS, MIN_MAP_SIZE};
use crate::store::error::lmdb_error;
use crate::store::schema::databases;

/// Maps the environment in `root`, with as much address space as the process may have.
pub(crate) fn map(root: &Path) -> Result<Env<WithoutTls>> {
    reader_table::allocate_table(root)?;
    let mut size = MAP_SIZE;
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(size).max_readers(MAX_READERS).max_dbs(databases::DATABASES);
        // SAFETY: the file was verified (`verify::before_mapping`), or it is new, and belongs to us
        // while `Root` is held: nobody else changes it but through LMDB.
        let opened = unsafe { options.open(root) };
        match opened {
            // An address-space limit (RLIMIT_AS, a small machine): take what there is.
            Err(heed::Error::Io(e))
                if e.kind() == std::io::ErrorKind::OutOfMemory && size / 2 >= MIN_MAP_SIZE =>
            {
                size /= 2;
            }
            Err(e) => return Err(lmdb_error(&format!("opening {}", root.display()), &e)),
            Ok(env) => {
                if size < MAP_SIZE {
                    log::warn!(
                        "address space is limited: the store can grow to {} MiB only",
                        size >> 20
                    );
                }
                return Ok(env);
            }
        }
    }
}

/// Takes a snapshot; none of an environment that LMDB refuses since a write failed. When all places
/// for readers are taken, some may be of processes that are gone.
pub(crate) fn begin_to_read(env: &Env<WithoutTls>) -> Result<Option<RoTxn<'_, WithoutTls>>> {
    use heed::MdbError::{Panic, ReadersFull};
    let begun = match env.read_txn() {
        Err(heed::Error::Mdb(ReadersFull)) if free_dead_readers(env)? > 0 => env.read_txn(),
        begun => begun,
    };
    match begun {
        Err(heed::Error::Mdb(Panic)) => Ok(None),
        begun => begun.map(Some).map_err(|e| lmdb_error("beginning to read", &e)),
    }
}

/// Takes back the slots of readers whose process is gone; says how many.
pub(crate) fn free_dead_readers(env: &Env<WithoutTls>) -> Result<usize> {
    env.clear_stale_readers().map_err(|e| lmdb_error("looking for readers that are gone", &e))
}
