//! Makes the disk hold what a data file reads as.
//!
//! A write that failed, or that a killed process did not sync, may have reached the disk or not; a
//! read does not tell, as it shows what the kernel has in memory. For pages this does not matter:
//! nothing refers to them before they are synced. A meta page is what refers. If the disk held a
//! newer one than we read, the next transaction would overwrite pages that it refers to, and a
//! power cut then would leave a store in ruins: LMDB starts with the newest meta page.
//!
//! So before the first write, both are written again as they read, and synced. Each is within
//! one sector of 512 bytes, which a disk writes wholly or not at all.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::model::{Error, Result};

/// Bytes of a page header and the meta record behind it.
const META_END: usize = 152;
/// Where a meta page has the size of pages, and its transaction.
const PAGE_SIZE_AT: usize = 40;
const TRANSACTION_AT: usize = 144;

/// Settles a file that `verify` has passed, and that nobody else writes. Gives its newest
/// transaction.
pub fn make_meta_durable(path: &Path) -> Result<u64> {
    rewrite_meta(path).map_err(|e| {
        Error::Unavailable(format!("writing the meta pages of {} again: {e}", path.display()))
    })
}

fn rewrite_meta(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut newest = 0;
    let mut at = 0;
    for _ in 0..2 {
        let mut meta = [0; META_END];
        file.read_exact_at(&mut meta, at)?;
        file.write_all_at(&meta, at)?;
        newest = newest.max(u64::from_ne_bytes(bytes(&meta, TRANSACTION_AT)));
        at = u64::from(u32::from_ne_bytes(bytes(&meta, PAGE_SIZE_AT)));
    }
    file.sync_all()?;
    Ok(newest)
}

fn bytes<const N: usize>(meta: &[u8; META_END], at: usize) -> [u8; N] {
    meta.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
