//! The two meta pages. Each transaction that commits ends by writing one of them, in turn.

use std::hash::Hasher;

use fnv::FnvHasher;

use crate::page::{HEADER, number};
use crate::{Damage, ReadAt};

const MAGIC: u64 = 0xED0C_DAED;
const VERSION: u64 = 2;
/// Bytes of the record behind the page's header.
const RECORD: usize = 64;
/// Bytes of the record that its checksum covers.
const COVERED: usize = 56;
/// Powers of two that a page size may be: bbolt itself looks for its second meta page there.
pub(crate) const PAGE_SIZE_BITS: std::ops::RangeInclusive<u32> = 10..=25;

/// What a meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u64,
    /// The page of the root bucket.
    pub root_pgid: u64,
    /// The high water mark: no page from this number on is in use.
    pub page_count: u64,
    /// The transaction that wrote it.
    pub txid: u64,
    /// Over everything above and the fields that are not read. Two meta pages that agree in all
    /// fields here are the same one.
    pub checksum: u64,
}

/// Which meta page a reader of a file at rest goes by, and what is wrong with the other one.
pub(crate) fn newest(source: &(impl ReadAt + ?Sized)) -> Result<(Meta, Option<Damage>), Damage> {
    let first = read(source, 0).map_err(|what| Damage::new(0, what));
    let second = match &first {
        Ok(meta) => read_second(source, meta.page_size),
        // The page size, and with it the place of the second one, stands in the first alone.
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

/// One of the two meta pages of a file whose page size is known.
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
    let mut bytes = [0; HEADER + RECORD];
    source
        .read_at(&mut bytes, offset)
        .map_err(|e| format!("this meta page cannot be read: {e}"))?;
    let (_, record) = bytes.split_at(HEADER);
    parse(record).unwrap_or_else(|| Err("this meta page is incomplete".into()))
}

/// What the record says, or what is wrong with it; nothing when it is too short.
fn parse(record: &[u8]) -> Option<Result<Meta, String>> {
    let magic = number::<4>(record, 0)?;
    let version = number::<4>(record, 4)?;
    let checksum = number::<8>(record, COVERED)?;
    let meta = Meta {
        page_size: number::<4>(record, 8)?,
        root_pgid: number::<8>(record, 16)?,
        page_count: number::<8>(record, 40)?,
        txid: number::<8>(record, 48)?,
        checksum,
    };
    let mut hasher = FnvHasher::default();
    hasher.write(record.get(..COVERED)?);
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
