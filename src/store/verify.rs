//! What is checked of a data file before LMDB maps it.
//!
//! LMDB is C that trusts its file: a page number past the end is a SIGBUS, a broken header may be
//! worse. This reader is safe Rust, uses `pread` and checks every bound. So far it covers what a
//! cut file and a foreign file show: both meta pages, and that the file reaches as far as they
//! say. It does not walk the trees.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::model::{Error, Result};

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const META_FLAG: u16 = 0x08;
/// Bytes of a page header, and of the meta record behind it, on 64-bit machines.
const PAGE_HEADER: usize = 16;
const META: usize = 136;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;

/// What a meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: u64,
    last_page: u64,
    transaction: u64,
    /// Of the tree of free pages and of the tree of databases.
    roots: [u64; 2],
}

/// Refuses a file that LMDB must not map, with a sentence. A missing or an empty file is a new
/// store. A file that ends before its last page is extended: the pages at the end are free ones
/// that LMDB never wrote, or, if the file was cut, they read as zeros instead of killing us.
pub fn before_mapping(path: &Path) -> Result<()> {
    let Some((file, length, wanted)) = check(path, true)? else { return Ok(()) };
    if length < wanted {
        log::warn!(
            "{} has {length} bytes of {wanted}; the missing end is read as empty",
            path.display()
        );
        let told = |e| Error::Internal(format!("extending {}: {e}", path.display()));
        file.set_len(wanted).map_err(told)?;
    }
    Ok(())
}

/// The same for a store that somebody else may be writing: nothing is changed.
pub fn before_reading(path: &Path) -> Result<()> {
    check(path, false).map(drop)
}

/// The file, how long it is, and how long its pages say it should be; nothing of a new store.
fn check(path: &Path, write: bool) -> Result<Option<(File, u64, u64)>> {
    let refuse = |why: String| {
        Error::DataLoss(format!(
            "{} is damaged: {why}; nothing was changed; put a backup in its place or move it away",
            path.display()
        ))
    };
    let told = |e: io::Error| Error::Internal(format!("checking {}: {e}", path.display()));
    let file = match OpenOptions::new().read(true).write(write).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(told(e)),
    };
    let length = file.metadata().map_err(told)?.len();
    if length == 0 {
        return Ok(None);
    }
    let first = read_meta(&file, 0, length).map_err(|why| refuse(format!("meta page 0 {why}")))?;
    let second = read_meta(&file, first.page_size, length)
        .map_err(|why| refuse(format!("meta page 1 {why}")))?;
    if first.page_size != second.page_size {
        return Err(refuse("its meta pages disagree on the size of a page".into()));
    }
    let live = if second.transaction > first.transaction { second } else { first };
    if live.roots.iter().any(|root| *root != NO_PAGE && *root > live.last_page) {
        return Err(refuse("the root of a tree lies behind the last page".into()));
    }
    let wanted = live
        .last_page
        .checked_add(1)
        .and_then(|pages| pages.checked_mul(live.page_size))
        .filter(|wanted| *wanted <= super::MAP_SIZE as u64)
        .ok_or_else(|| refuse(format!("its last page would be number {}", live.last_page)))?;
    Ok(Some((file, length, wanted)))
}

fn read_meta(file: &File, at: u64, length: u64) -> std::result::Result<Meta, String> {
    let mut page = [0; PAGE_HEADER + META];
    if length < at.saturating_add(page.len() as u64) {
        return Err(format!("is missing: the file has {length} bytes"));
    }
    file.read_exact_at(&mut page, at).map_err(|e| format!("cannot be read: {e}"))?;
    let u16_at = |i| u16::from_ne_bytes(bytes(&page, i));
    let u32_at = |i| u32::from_ne_bytes(bytes(&page, i));
    let u64_at = |i| u64::from_ne_bytes(bytes(&page, i));
    // Offsets of MDB_page and MDB_meta in LMDB 0.9 (data version 1).
    if u16_at(10) & META_FLAG == 0 || u32_at(PAGE_HEADER) != MAGIC {
        return Err("is not one of LMDB".into());
    }
    if u32_at(PAGE_HEADER + 4) != DATA_VERSION {
        return Err(format!("has LMDB data version {}", u32_at(PAGE_HEADER + 4)));
    }
    let page_size = u64::from(u32_at(PAGE_HEADER + 24));
    if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) {
        return Err(format!("gives a page {page_size} bytes"));
    }
    Ok(Meta {
        page_size,
        last_page: u64_at(PAGE_HEADER + 120),
        transaction: u64_at(PAGE_HEADER + 128),
        roots: [u64_at(PAGE_HEADER + 64), u64_at(PAGE_HEADER + 112)],
    })
}

/// `N` bytes at `at`; zeros where the page ends.
fn bytes<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    page.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    fn store() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let file = dir.path().join("data.mdb");
        (dir, file)
    }

    #[test]
    fn a_good_file_passes() {
        let (_dir, file) = store();
        before_mapping(&file).unwrap();
    }

    #[test]
    fn a_foreign_or_cut_file_is_refused_unchanged() {
        let (dir, file) = store();
        let good = std::fs::read(&file).unwrap();
        let mut other_magic = good.clone();
        other_magic[16] ^= 1;
        let mut other_version = good.clone();
        other_version[20] = 9;
        let mut far_root = good.clone();
        for meta in [0, 4096] {
            far_root[meta + 16 + 112..][..8].copy_from_slice(&(1u64 << 40).to_ne_bytes());
        }
        let mut far_end = good.clone();
        for meta in [0, 4096] {
            far_end[meta + 16 + 120..][..8].copy_from_slice(&(1u64 << 60).to_ne_bytes());
        }
        for bad in [
            b"not a database".to_vec(),
            good[..4096].to_vec(),
            other_magic,
            other_version,
            far_root,
            far_end,
        ] {
            std::fs::write(&file, &bad).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, Error::DataLoss(_)), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), bad);
        }
    }
}
