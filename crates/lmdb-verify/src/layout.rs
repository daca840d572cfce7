//! LMDB's file format: LMDB 0.9, data version 1, 64-bit.
//!
//! Views of bytes that check every access: an access out of bounds returns `None`. Numbers are in the
//! machine's byte order, as LMDB writes them. [`tree`](crate::tree) and [`state`](crate::state) interpret
//! the values. Not supported are databases with several values a key, with keys compared backwards, and with
//! integer keys, except LMDB's own list of free pages.
//!
//! ```text
//! page   0 number u64 │ 8 pad u16 │ 10 flags u16 │ 12 lower u16 │ 14 upper u16 │ 16 offsets u16 …
//!                                                └ overflow: 12 pages of the run u32 ┘
//! meta   page header, then 0 magic u32 │ 4 version u32 │ 8 address │ 16 size of the map u64
//!        24 free: db │ 72 main: db │ 120 last page u64 │ 128 transaction u64
//! db     0 pad u32 │ 4 flags u16 │ 6 depth u16 │ 8 branch │ 16 leaf │ 24 overflow pages u64
//!        32 entries u64 │ 40 root u64
//! node   0 low u16 │ 2 high u16 │ 4 flags u16 │ 6 length of the key u16 │ 8 key, then the value
//!        leaf: low and high are the value's length; branch: with flags, the number of a page
//! ```

/// Bytes before a page's offsets, or before an overflow run's value.
pub const PAGE_HEADER: usize = 16;
/// Bytes of a meta record.
pub const META: usize = 136;
/// Bytes that describe a database.
pub const DATABASE: usize = 48;
/// Bytes of a node before its key.
pub const NODE_HEADER: usize = 8;
/// LMDB's longest key.
pub const MAX_KEY: usize = 511;
/// The depth that LMDB's cursors support.
pub const MAX_DEPTH: u16 = 32;
/// Pages before all others.
pub const METAS: u64 = 2;
/// The root of an empty tree.
pub const NO_PAGE: u64 = u64::MAX;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;

/// Flags of pages.
pub mod page {
    /// Holds the numbers of other pages.
    pub const BRANCH: u16 = 0x01;
    /// Holds records.
    pub const LEAF: u16 = 0x02;
    /// Begins a long value.
    pub const OVERFLOW: u16 = 0x04;
    /// One of the first two.
    pub const META: u16 = 0x08;
}

/// Flags of nodes in leaves.
pub mod node {
    /// The value is in a run of pages of its own.
    pub const BIG: u16 = 0x01;
    /// The value describes a database.
    pub const TREE: u16 = 0x02;
}

/// The flag of a database whose keys are integers: LMDB's list of free pages.
pub const INTEGER_KEYS: u16 = 0x08;

/// `N` bytes at `at`.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Two bytes at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(u16::from_ne_bytes)
}

/// Four bytes at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_ne_bytes)
}

/// Eight bytes at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    chunk(bytes, at).map(u64::from_ne_bytes)
}

/// The description of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Db {
    /// In the list of free pages the size of a page, elsewhere 0.
    pub pad: u32,
    /// Flags about keys and values.
    pub flags: u16,
    /// Levels of pages; 0 when it is empty.
    pub depth: u16,
    /// Pages of branches.
    pub branches: u64,
    /// Pages of leaves.
    pub leaves: u64,
    /// Pages of long values.
    pub overflow: u64,
    /// Keys.
    pub entries: u64,
    /// The top page, or [`NO_PAGE`].
    pub root: u64,
}

impl Db {
    /// Decodes a description of exactly [`DATABASE`] bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == DATABASE).then_some(())?;
        Some(Self {
            pad: u32_at(bytes, 0)?,
            flags: u16_at(bytes, 4)?,
            depth: u16_at(bytes, 6)?,
            branches: u64_at(bytes, 8)?,
            leaves: u64_at(bytes, 16)?,
            overflow: u64_at(bytes, 24)?,
            entries: u64_at(bytes, 32)?,
            root: u64_at(bytes, 40)?,
        })
    }
}

/// A meta page: the roots of one state of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: usize,
    /// The size of the map when the page was written, in bytes.
    pub map_size: u64,
    /// The tree of free pages.
    pub free: Db,
    /// The tree of databases.
    pub main: Db,
    /// The highest page in use.
    pub last_page: u64,
    /// The transaction that wrote it.
    pub transaction: u64,
}

impl Meta {
    /// Decodes the beginning of meta page `number`, 0 or 1.
    ///
    /// # Errors
    /// A predicate that says what is wrong with the page.
    pub fn read(bytes: &[u8], number: u64) -> Result<Self, String> {
        let record = bytes.get(PAGE_HEADER..PAGE_HEADER + META).ok_or("is cut off")?;
        let cut = || "is cut off".to_owned();
        if u16_at(bytes, 10) != Some(page::META) || u32_at(record, 0) != Some(MAGIC) {
            return Err("is not one of LMDB".into());
        }
        if u64_at(bytes, 0) != Some(number) {
            return Err("has the number of another page".into());
        }
        let version = u32_at(record, 4).ok_or_else(cut)?;
        if version != DATA_VERSION {
            return Err(format!("has LMDB data version {version}"));
        }
        let db = |at: usize| record.get(at..at + DATABASE).and_then(Db::read).ok_or_else(cut);
        let (free, main) = (db(24)?, db(72)?);
        let page_size = free.pad as usize;
        if !page_size.is_power_of_two() || !(512..=32_768).contains(&page_size) {
            return Err(format!("gives a page {page_size} bytes"));
        }
        Ok(Self {
            page_size,
            map_size: u64_at(record, 16).ok_or_else(cut)?,
            free,
            main,
            last_page: u64_at(record, 120).ok_or_else(cut)?,
            transaction: u64_at(record, 128).ok_or_else(cut)?,
        })
    }
}

/// A page of nodes, or the header of another.
#[derive(Debug, Clone, Copy)]
pub struct Page<'p>(pub &'p [u8]);

impl<'p> Page<'p> {
    /// The number in its header.
    pub fn number(self) -> Option<u64> {
        u64_at(self.0, 0)
    }

    /// See [`page`].
    pub fn flags(self) -> Option<u16> {
        u16_at(self.0, 10)
    }

    /// The length of the run that it begins, in pages.
    pub fn run(self) -> Option<u64> {
        u32_at(self.0, 12).map(u64::from)
    }

    /// The end of its offsets.
    pub fn lower(self) -> Option<usize> {
        u16_at(self.0, 12).map(usize::from)
    }

    /// The start of its nodes.
    pub fn upper(self) -> Option<usize> {
        u16_at(self.0, 14).map(usize::from)
    }

    /// The number of nodes, if its bounds are those of a page of nodes.
    pub fn count(self) -> Option<usize> {
        let (lower, upper) = (self.lower()?, self.upper()?);
        let sound = lower >= PAGE_HEADER
            && lower % 2 == 0
            && upper % 2 == 0
            && lower <= upper
            && upper <= self.0.len();
        sound.then_some((lower.saturating_sub(PAGE_HEADER)) / 2)
    }

    /// A node, if it lies wholly in the part for nodes.
    pub fn node(self, index: usize, leaf: bool) -> Option<Node<'p>> {
        let at = usize::from(u16_at(self.0, PAGE_HEADER + 2 * index)?);
        (at % 2 == 0 && at >= self.upper()?).then_some(())?;
        let bytes = self.0.get(at..)?;
        let (low, high) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        let flags = u16_at(bytes, 4)?;
        let size = u32::from(low) | (u32::from(high) << 16);
        let stored = match (leaf, flags & node::BIG) {
            (false, _) => 0,
            (true, 0) => size as usize,
            _ => 8,
        };
        let value_at = NODE_HEADER + usize::from(u16_at(bytes, 6)?);
        let length = value_at.checked_add(stored)?;
        let value = bytes.get(value_at..length)?;
        let key = bytes.get(NODE_HEADER..value_at)?;
        // LMDB keeps nodes at even offsets.
        Some(Node { at, length: length.next_multiple_of(2), flags, size, key, value })
    }
}

/// One node of a page.
#[derive(Debug, Clone, Copy)]
pub struct Node<'p> {
    /// The offset in its page.
    pub at: usize,
    /// The bytes that it takes in its page.
    pub length: usize,
    /// See [`node`]; in a branch, part of the number.
    pub flags: u16,
    /// The length of the value, in bytes, in the page or in a run of its own.
    pub size: u32,
    /// The key.
    pub key: &'p [u8],
    /// The value, or the reference to its run.
    pub value: &'p [u8],
}

impl Node<'_> {
    /// The child page of a node in a branch.
    pub fn child(&self) -> u64 {
        u64::from(self.size) | (u64::from(self.flags) << 32)
    }

    /// The first page of the run of a long value.
    pub fn run(&self) -> Option<u64> {
        u64_at(self.value, 0)
    }
}
