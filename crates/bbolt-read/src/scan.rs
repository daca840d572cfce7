//! A look at every page of a file whose trees cannot be walked from the top.

use crate::meta::{self, PAGE_SIZE_BITS};
use crate::page::{Header, PAGE_HEADER_BYTES};
use crate::{Damage, Entry, ReadAt, Snapshot};

/// Pages that are looked at, at most, to find the page size.
const MAX_SAMPLED_PAGES: u64 = 4096;

/// All leaf pages of a file at rest, whichever tree they belong to.
///
/// A page does not show its age. A free page has the state of some past transaction, for example a key that
/// was changed or deleted since. So a scan may find a key several times, and every result is a guess.
pub struct Scan<'s, S: ?Sized> {
    snapshot: Snapshot<'s, S>,
}

impl<'s, S: ReadAt + ?Sized> Scan<'s, S> {
    /// Finds the page size: by a meta page, or else by the size with which most pages have their own
    /// number.
    ///
    /// # Errors
    /// The size of the file cannot be had, or no page of any size is one of bbolt's.
    pub fn open(source: &'s S) -> Result<Self, Damage> {
        let size_unknown = |e| Damage::new(0, format!("the size of the file cannot be had: {e}"));
        let size = source.size().map_err(size_unknown)?;
        let page_size = match meta::newest(source) {
            Ok((meta, _)) => meta.page_size,
            Err(damage) => guess_page_size(source, size).ok_or(damage)?,
        };
        Ok(Self { snapshot: Snapshot::without_meta(source, page_size, size / page_size) })
    }

    /// Reads buckets that entries lead to.
    pub fn snapshot(&self) -> &Snapshot<'s, S> {
        &self.snapshot
    }

    /// The entries of each leaf page that is whole, in order of pages.
    pub fn leaves(&self) -> impl Iterator<Item = Vec<Entry>> + '_ {
        (0..self.snapshot.page_count()).filter_map(|pgid| self.snapshot.leaf(pgid))
    }
}

fn guess_page_size(source: &(impl ReadAt + ?Sized), size: u64) -> Option<u64> {
    let count = |page_size: u64| {
        let pages = (size / page_size).min(MAX_SAMPLED_PAGES);
        let is_page = |pgid: &u64| {
            let mut header = [0; PAGE_HEADER_BYTES];
            source.read_at(&mut header, pgid * page_size).is_ok()
                && Header::parse(&header, *pgid).is_ok()
        };
        // Page 0 is no page of a tree, and would fit any size.
        (1..pages).filter(is_page).count()
    };
    let sizes = PAGE_SIZE_BITS.map(|bits| (count(1 << bits), 1 << bits));
    // Of those with as many pages, the largest: pages of 8 KiB have numbers that fit no smaller size.
    sizes.filter(|(count, _)| *count > 0).max().map(|(_, page_size)| page_size)
}
