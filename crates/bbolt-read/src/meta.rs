//! The two meta pages. A commit ends when it writes one meta page; commits alternate between the two.

use std::hash::Hasher;

use fnv::FnvHasher;

use crate::page::{PAGE_HEADER_BYTES, number};
use crate::{Damage, ReadAt};

const MAGIC: u64 = 0xED0C_DAED;
const VERSION: u64 = 2;
/// Length of the meta record, which follows the page header.
const RECORD_BYTES: usize = 64;
/// Offset of the checksum in the record. The checksum covers all bytes before it.
const CHECKSUM_OFFSET: usize = 56;
/// The binary logarithms of the allowed page sizes (1 KiB to 32 MiB). bbolt tries the same sizes when it
/// looks for the second meta page.
pub(crate) const PAGE_SIZE_BITS: std::ops::RangeInclusive<u32> = 10..=25;

/// The decoded record of a meta page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Size of a page in bytes.
    pub page_size: u64,
    /// Number of the page where the root bucket begins.
    pub root_pgid: u64,
    /// The high water mark: no page from this number on is in use.
    pub page_count: u64,
    /// Id of the transaction that wrote this meta page.
    pub txid: u64,
    /// Checksum (FNV-1a) of the record before this field, including fields that this struct leaves out.
    /// So two equal values of this struct come from the same write of a meta page.
    pub checksum: u64,
}

/// Chooses the meta page for a file that no process writes: the valid one with the higher transaction
/// id. Also returns the damage of the other meta page, if it has any.
pub(crate) fn newest(source: &(impl ReadAt + ?Sized)) -> Result<(Meta, Option<Damage>), Damage> {
    let first = read(source, 0).map_err(|what| Damage::new(0, what));
    let second = match &first {
        Ok(meta) => read_second(source, meta.page_size),
        // Only the first meta page tells the page size, and the second meta page begins after one page.
        // So try every allowed size.
        Err(_) => PAGE_SIZE_BITS
            .map(|bits| read_second(source, 1 << bits))
            .find(Result::is_ok)
            .unwrap_or_else(|| Err("there is no second meta page either".into())),
    };
    match (first, second.map_err(|what| Damage::new(1, what))) {
        (Ok(first), Ok(second)) if second.txid > first.txid => Ok((second, None)),
        (Ok(first), Ok(_)) => Ok((first, None)),
        (Ok(whole), Err(damage)) | (Err(damage), Ok(whole)) => Ok((whole, Some(damage))),
        (Err(first), Err(_)) => Err(first),
    }
}

fn read_second(source: &(impl ReadAt + ?Sized), page_size: u64) -> Result<Meta, String> {
    let meta = read(source, page_size)?;
    if meta.page_size != page_size {
        return Err("it disagrees with the first on the size of a page".into());
    }
    Ok(meta)
}

/// Reads meta page `page` (0 or 1) of a file whose page size is known.
pub(crate) fn read_page(
    source: &(impl ReadAt + ?Sized),
    page: u64,
    page_size: u64,
) -> Result<Meta, Damage> {
    let meta = read(source, page * page_size).map_err(|what| Damage::new(page, what))?;
    if meta.page_size != page_size {
        let what = format!("its pages have {} bytes, no longer {page_size}", meta.page_size);
        return Err(Damage::new(page, what));
    }
    Ok(meta)
}

fn read(source: &(impl ReadAt + ?Sized), offset: u64) -> Result<Meta, String> {
    let mut bytes = [0; PAGE_HEADER_BYTES + RECORD_BYTES];
    source
        .read_at(&mut bytes, offset)
        .map_err(|e| format!("this meta page cannot be read: {e}"))?;
    let (_, record) = bytes.split_at(PAGE_HEADER_BYTES);
    parse(record).unwrap_or_else(|| Err("this meta page is incomplete".into()))
}

/// Decodes a record, or says what is wrong with it. `None` if the record is too short.
fn parse(record: &[u8]) -> Option<Result<Meta, String>> {
    let magic = number::<4>(record, 0)?;
    let version = number::<4>(record, 4)?;
    let checksum = number::<8>(record, CHECKSUM_OFFSET)?;
    let meta = Meta {
        page_size: number::<4>(record, 8)?,
        root_pgid: number::<8>(record, 16)?,
        page_count: number::<8>(record, 40)?,
        txid: number::<8>(record, 48)?,
        checksum,
    };
    let mut hasher = FnvHasher::default();
    hasher.write(record.get(..CHECKSUM_OFFSET)?);
    Some(if magic == u64::from((MAGIC as u32).swap_bytes()) {
        Err("it was written by a machine of big-endian byte order, which is not read here".into())
    } else if magic != MAGIC {
        Err("this is no bolt file: the number that begins its first meta page is not bolt's".into())
    } else if version != VERSION {
        Err(format!("the file has version {version} of bolt's format, and only {VERSION} is known"))
    } else if hasher.finish() != checksum {
        Err("the checksum of this meta page is wrong".into())
    } else if !PAGE_SIZE_BITS.map(|bits| 1 << bits).any(|size| size == meta.page_size) {
        Err(format!("pages of {} bytes are unknown", meta.page_size))
    } else {
        Ok(meta)
    })
}
