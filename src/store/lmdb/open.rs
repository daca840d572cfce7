//! Opening an LMDB environment, and taking snapshots of it.

use std::path::Path;

use heed::{Env, EnvOpenOptions, RoTxn, WithoutTls};

use super::reader_table;
use crate::model::Result;
use crate::store::bounds::{MAP_SIZE, MAX_READERS, MIN_MAP_SIZE};
use crate::store::error::lmdb_error;
use crate::store::schema::databases;

/// Opens an environment with as much address space as the process may have: calls `open` with the size of the
/// map, and with half of it while the address space is too small (RLIMIT_AS, a small machine). Returns the size
/// too.
pub(crate) fn with_largest_map<T>(
    mut open: impl FnMut(usize) -> Result<T, heed::Error>,
) -> Result<(T, usize), heed::Error> {
    let mut size = MAP_SIZE;
    loop {
        match open(size) {
            Err(heed::Error::Io(e))
                if e.kind() == std::io::ErrorKind::OutOfMemory && size / 2 >= MIN_MAP_SIZE =>
            {
                size /= 2;
            }
            opened => return opened.map(|env| (env, size)),
        }
    }
}

/// Maps the environment in `root`.
pub(crate) fn map(root: &Path) -> Result<Env<WithoutTls>> {
    reader_table::allocate_table(root)?;
    let opened = with_largest_map(|size| {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(size).max_readers(MAX_READERS).max_dbs(databases::MAX_DATABASES);
        // SAFETY: the file is new or was verified (`verify::check_before_mmap`), and this process owns
        // it while it holds the `StoreDir`: other processes change it through LMDB only.
        unsafe { options.open(root) }
    });
    let (env, size) = opened.map_err(|e| lmdb_error(&format!("opening {}", root.display()), &e))?;
    if size < MAP_SIZE {
        log::warn!("address space is limited: the store can grow to {} MiB only", size >> 20);
    }
    Ok(env)
}

/// Begins a read transaction; `None` if LMDB refuses the environment after a failed write. If all
/// reader slots are taken, frees those of processes that have ended and tries again.
pub(crate) fn begin_to_read(env: &Env<WithoutTls>) -> Result<Option<RoTxn<'_, WithoutTls>>> {
    use heed::MdbError::{Panic, ReadersFull};
    let txn = match env.read_txn() {
        Err(heed::Error::Mdb(ReadersFull)) if free_dead_readers(env)? > 0 => env.read_txn(),
        txn => txn,
    };
    match txn {
        Err(heed::Error::Mdb(Panic)) => Ok(None),
        txn => txn.map(Some).map_err(|e| lmdb_error("beginning to read", &e)),
    }
}

/// Frees the reader slots of processes that have ended; returns the number of freed slots.
pub(crate) fn free_dead_readers(env: &Env<WithoutTls>) -> Result<usize> {
    env.clear_stale_readers().map_err(|e| lmdb_error("looking for readers that are gone", &e))
}
