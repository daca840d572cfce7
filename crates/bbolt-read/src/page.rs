//! One page of a tree, with every offset in it checked once, when it is taken apart.

use crate::damage::quote;

/// Bytes of a page's header, before its elements.
pub(crate) const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of an element of a branch page or of a leaf page.
const ELEMENT_BYTES: usize = 16;
const BRANCH_PAGE: u64 = 1;
const LEAF_PAGE: u64 = 2;
/// The flag of a leaf element whose value is a bucket.
const BUCKET_LEAF: u64 = 1;

/// The little-endian number of `N` bytes at `offset`; nothing where there are fewer.
pub(crate) fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(N)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The header of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    flags: u64,
    count: usize,
    /// The number of overflow pages.
    pub(crate) overflow: u64,
}

impl Header {
    /// Takes apart the header of the page `pgid`; the page of an inline bucket has the number 0.
    pub(crate) fn parse(bytes: &[u8], pgid: u64) -> Result<Self, String> {
        let field = |found: Option<u64>| found.ok_or("it is shorter than its header");
        let own = field(number::<8>(bytes, 0))?;
        let flags = field(number::<2>(bytes, 8))?;
        let count = field(number::<2>(bytes, 10))?;
        let overflow = field(number::<4>(bytes, 12))?;
        if own != pgid {
            return Err(format!("it says that it is page {own}, not {pgid}"));
        }
        if flags != BRANCH_PAGE && flags != LEAF_PAGE {
            return Err(format!("it is no page of a tree (its flags are {flags:#x})"));
        }
        let count = usize::try_from(count).map_err(|e| e.to_string())?;
        Ok(Self { flags, count, overflow })
    }
}

/// The target of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Child(u64),
    Value,
    Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Element {
    kind: Kind,
    key: (usize, usize),
    value: (usize, usize),
}

/// A branch page or a leaf page, whole and in order.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: Vec<u8>,
    elements: Vec<Element>,
    is_branch: bool,
}

/// The content of an element of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'p> {
    /// The page of the keys from this one on.
    Child(u64),
    /// A value.
    Value(&'p [u8]),
    /// A bucket: its header, and its page when it is an inline bucket.
    Bucket(&'p [u8]),
}

impl Page {
    /// Takes the page `pgid` apart: `bytes` are all its bytes, with its overflow pages. Keys must
    /// ascend, and begin with `from` and end before `to`, as its parent says.
    pub(crate) fn parse(
        bytes: Vec<u8>,
        pgid: u64,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Self, String> {
        let header = Header::parse(&bytes, pgid)?;
        let mut end = PAGE_HEADER_BYTES + header.count * ELEMENT_BYTES;
        if end > bytes.len() {
            return Err(format!("it has no room for its {} elements", header.count));
        }
        let is_branch = header.flags == BRANCH_PAGE;
        if is_branch && header.count == 0 {
            return Err("it is a branch without children".into());
        }
        let mut elements = Vec::with_capacity(header.count);
        let mut last: Option<&[u8]> = None;
        for index in 0..header.count {
            let wrong = |what| move || format!("its element {index} {what}");
            let element = element(&bytes, is_branch, index)
                .ok_or_else(wrong("is of a kind that bolt does not have"))?;
            // bolt writes keys and values behind the elements, one right behind the other: a wrong
            // number of elements shows here, too.
            if element.key.0 != end {
                return Err(wrong("does not lie where the one before it ends")());
            }
            end = element.value.1;
            let key = slice(&bytes, element.key).ok_or_else(wrong("goes past its end"))?;
            slice(&bytes, element.value).ok_or_else(wrong("goes past its end"))?;
            if last.is_some_and(|last| last >= key) {
                return Err(format!("its key {} does not ascend", quote(key)));
            }
            if last.is_none() && from.is_some_and(|from| key < from) {
                let (key, from) = (quote(key), quote(from.unwrap_or_default()));
                return Err(format!("its first key {key} comes before {from} of its parent"));
            }
            last = Some(key);
            elements.push(element);
        }
        if let (Some(last), Some(to)) = (last, to)
            && last >= to
        {
            let (last, to) = (quote(last), quote(to));
            return Err(format!("its last key {last} belongs behind {to} of its parent"));
        }
        Ok(Self { bytes, elements, is_branch })
    }

    /// Takes the page of an inline bucket apart, which is always a leaf page.
    pub(crate) fn parse_inline(bytes: Vec<u8>) -> Result<Self, String> {
        let page =
            Self::parse(bytes, 0, None, None).map_err(|what| format!("in a bucket: {what}"))?;
        if page.is_branch {
            return Err("in a bucket: it is a branch, which no inline bucket has".into());
        }
        Ok(page)
    }

    /// The element of the branch page or leaf page at which the way to `key` goes on: in a branch
    /// page the child that may hold it, in a leaf page the first element that is not before it.
    pub(crate) fn seek(&self, key: &[u8]) -> usize {
        let before = |wanted: fn(&[u8], &[u8]) -> bool| {
            self.elements.partition_point(|element| {
                slice(&self.bytes, element.key).is_some_and(|own| wanted(own, key))
            })
        };
        if self.is_branch {
            before(|own, key| own <= key).saturating_sub(1)
        } else {
            before(|own, key| own < key)
        }
    }

    /// The key and the item at `index`; `None` behind the last.
    pub(crate) fn get(&self, index: usize) -> Option<(&[u8], Item<'_>)> {
        let element = self.elements.get(index)?;
        let value = slice(&self.bytes, element.value)?;
        let item = match element.kind {
            Kind::Child(pgid) => Item::Child(pgid),
            Kind::Value => Item::Value(value),
            Kind::Bucket => Item::Bucket(value),
        };
        Some((slice(&self.bytes, element.key)?, item))
    }

    /// The key alone.
    pub(crate) fn key(&self, index: usize) -> Option<&[u8]> {
        slice(&self.bytes, self.elements.get(index)?.key)
    }
}

fn element(bytes: &[u8], is_branch: bool, index: usize) -> Option<Element> {
    let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
    let field = |offset| number::<4>(bytes, at + offset).and_then(|n| usize::try_from(n).ok());
    let (position, key, value, kind) = if is_branch {
        (field(0)?, field(4)?, 0, Kind::Child(number::<8>(bytes, at + 8)?))
    } else {
        let kind = match number::<4>(bytes, at)? {
            0 => Kind::Value,
            BUCKET_LEAF => Kind::Bucket,
            _ => return None,
        };
        (field(4)?, field(8)?, field(12)?, kind)
    };
    let start = at.checked_add(position)?;
    let middle = start.checked_add(key)?;
    Some(Element { kind, key: (start, middle), value: (middle, middle.checked_add(value)?) })
}

fn slice(bytes: &[u8], (start, end): (usize, usize)) -> Option<&[u8]> {
    bytes.get(start..end)
}
