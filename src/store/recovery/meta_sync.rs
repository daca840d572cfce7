//! Makes the meta pages of a data file durable before the first write.
//!
//! A write that failed, or that a killed process did not sync, may or may not have reached the disk. A
//! read does not show which, because it returns the content of the page cache. Data pages are safe:
//! no page references them before they are synced. A meta page is not safe. If the disk holds a newer
//! one than the page cache, the next transaction could overwrite pages that it references, and after a
//! power cut LMDB would start from that newer meta page with a corrupt tree.
//!
//! So both meta pages are written again as they read, and synced. Each is within one sector of 512
//! bytes, which a disk writes completely or not at all.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::model::{Error, Result};

/// The bytes of a page header and the meta record after it.
const META_BYTES: usize = 152;
/// The offset of the page size, and of the number of the transaction, in bytes.
const PAGE_SIZE_OFFSET: usize = 40;
const TRANSACTION_OFFSET: usize = 144;

/// Rewrites and syncs the meta pages of a verified file that no other process writes. Returns the number of
/// the newest transaction.
pub(crate) fn make_meta_durable(path: &Path) -> Result<u64> {
    rewrite_meta(path).map_err(|e| {
        Error::Unavailable(format!("writing the meta pages of {} again: {e}", path.display()))
    })
}

fn rewrite_meta(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut newest = 0;
    let mut at = 0;
    for _ in 0..2 {
        let mut meta = [0; META_BYTES];
        file.read_exact_at(&mut meta, at)?;
        file.write_all_at(&meta, at)?;
        newest = newest.max(u64::from_ne_bytes(bytes(&meta, TRANSACTION_OFFSET)));
        at = u64::from(u32::from_ne_bytes(bytes(&meta, PAGE_SIZE_OFFSET)));
    }
    file.sync_all()?;
    Ok(newest)
}

fn bytes<const N: usize>(meta: &[u8; META_BYTES], at: usize) -> [u8; N] {
    meta.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
