//! The two meta pages: each write of bolt ends with one of them, in turn. The newer one that is
//! whole says what the file holds.

use std::hash::Hasher;

use fnv::FnvHasher;

use super::page::HEADER;
use super::{Damage, ReadAt, number};

const MAGIC: u64 = 0xED0C_DAED;
const VERSION: u64 = 2;
/// Bytes of the record behind the page's header, and of what its checksum covers.
const SIZE: usize = 64;
const COVERED: usize = 56;
/// The sizes a page may have: bolt itself looks for its second meta page at these places.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=25;

/// What a meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u64,
    /// Page of the root bucket.
    pub root: u64,
    /// Pages from this number on are not in use.
    pub end: u64,
    /// Number of the transaction that wrote it.
    pub transaction: u64,
}

/// The meta page to go by, and what is wrong with the other, if something is: then the last
/// transaction may be missing.
pub fn newest(source: &(impl ReadAt + ?Sized)) -> Result<(Meta, Option<Damage>), Damage> {
    let first = read(source, 0).map_err(|what| Damage::new(0, what));
    let second = match &first {
        Ok(meta) => read_second(source, meta.page_size),
        // Without the first nobody says where the second is.
        Err(_) => PAGE_SIZES
            .map(|bits| read_second(source, 1 << bits))
            .find(Result::is_ok)
            .unwrap_or_else(|| Err("there is no second meta page either".into())),
    };
    match (first, second.map_err(|what| Damage::new(1, what))) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => Ok((second, None)),
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

fn read(source: &(impl ReadAt + ?Sized), at: u64) -> Result<Meta, String> {
    let mut bytes = [0; HEADER + SIZE];
    source.read_at(&mut bytes, at).map_err(|e| format!("this meta page cannot be read: {e}"))?;
    let (_, record) = bytes.split_at(HEADER);
    parse(record).unwrap_or_else(|| Err("this meta page is incomplete".into()))
}

/// What the record says, or why it is none; nothing when it is too short.
fn parse(record: &[u8]) -> Option<Result<Meta, String>> {
    let magic = number::<4>(record, 0)?;
    let version = number::<4>(record, 4)?;
    let page_size = number::<4>(record, 8)?;
    let meta = Meta {
        page_size,
        root: number::<8>(record, 16)?,
        end: number::<8>(record, 40)?,
        transaction: number::<8>(record, 48)?,
    };
    let mut hasher = FnvHasher::default();
    hasher.write(record.get(..COVERED)?);
    let checksum = number::<8>(record, COVERED)?;
    Some(if magic == u64::from((MAGIC as u32).swap_bytes()) {
        Err("it was written by a machine of big-endian byte order, which is not read here".into())
    } else if magic != MAGIC {
        Err("this is no bolt file: the number that begins its first meta page is not bolt's".into())
    } else if version != VERSION {
        Err(format!("the file has version {version} of bolt's format, and only {VERSION} is known"))
    } else if hasher.finish() != checksum {
        Err("the checksum of this meta page is wrong".into())
    } else if !PAGE_SIZES.map(|bits| 1 << bits).any(|size| size == page_size) {
        Err(format!("pages of {page_size} bytes are unknown"))
    } else {
        Ok(meta)
    })
}
