//! One page of a tree, with every offset in it checked once, when it is taken apart.

use super::number;
use crate::model::go::quote::quote;

/// Bytes before the elements.
pub const HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u64 = 1;
const LEAF: u64 = 2;
const BUCKET: u64 = 1;

/// What stands at the beginning of a page.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    flags: u64,
    count: usize,
    /// So many further pages belong to it.
    pub overflow: u64,
}

impl Header {
    /// Takes the header of the page with that number apart; of an inline page the number is 0.
    pub fn parse(bytes: &[u8], id: u64) -> Result<Self, String> {
        let field = |found: Option<u64>| found.ok_or("it is shorter than its header");
        let own = field(number::<8>(bytes, 0))?;
        let flags = field(number::<2>(bytes, 8))?;
        let count = field(number::<2>(bytes, 10))?;
        let overflow = field(number::<4>(bytes, 12))?;
        if own != id {
            return Err(format!("it says that it is page {own}, not {id}"));
        }
        if flags != BRANCH && flags != LEAF {
            return Err(format!("it is no page of a tree (its flags are {flags:#x})"));
        }
        let count = usize::try_from(count).map_err(|e| e.to_string())?;
        Ok(Self { flags, count, overflow })
    }
}

/// What an element stands for.
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

/// A branch or a leaf, whole and in order.
#[derive(Debug)]
pub struct Page {
    bytes: Vec<u8>,
    elements: Vec<Element>,
}

/// What an element of a page holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'p> {
    /// The page of the keys from this one on.
    Child(u64),
    /// A value.
    Value(&'p [u8]),
    /// A bucket: its header, and its page, when that is inline.
    Bucket(&'p [u8]),
}

impl Page {
    /// Takes the page with that number apart: `bytes` are all its bytes, with the pages it goes on
    /// for. Keys must ascend, and begin with `from` and end before `to`, as its parent says.
    pub fn parse(
        bytes: Vec<u8>,
        id: u64,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Self, String> {
        let header = Header::parse(&bytes, id)?;
        let mut end = HEADER + header.count * ELEMENT;
        if end > bytes.len() {
            return Err(format!("it has no room for its {} elements", header.count));
        }
        if header.flags == BRANCH && header.count == 0 {
            return Err("it is a branch without children".into());
        }
        let mut elements = Vec::with_capacity(header.count);
        let mut last: Option<&[u8]> = None;
        for index in 0..header.count {
            let wrong = |what| move || format!("its element {index} {what}");
            let element = element(&bytes, header.flags, index)
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
                return Err(format!("its key {} does not ascend", quote(shown(key))));
            }
            if last.is_none() && from.is_some_and(|from| key < from) {
                let (key, from) = (quote(shown(key)), quote(shown(from.unwrap_or_default())));
                return Err(format!("its first key {key} comes before {from} of its parent"));
            }
            last = Some(key);
            elements.push(element);
        }
        if let (Some(last), Some(to)) = (last, to)
            && last >= to
        {
            let (last, to) = (quote(shown(last)), quote(shown(to)));
            return Err(format!("its last key {last} belongs behind {to} of its parent"));
        }
        Ok(Self { bytes, elements })
    }

    /// The key and what it holds; nothing behind the last.
    pub fn get(&self, index: usize) -> Option<(&[u8], Item<'_>)> {
        let element = self.elements.get(index)?;
        let value = slice(&self.bytes, element.value)?;
        let item = match element.kind {
            Kind::Child(id) => Item::Child(id),
            Kind::Value => Item::Value(value),
            Kind::Bucket => Item::Bucket(value),
        };
        Some((slice(&self.bytes, element.key)?, item))
    }

    /// The key alone.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        slice(&self.bytes, self.elements.get(index)?.key)
    }
}

fn element(bytes: &[u8], page: u64, index: usize) -> Option<Element> {
    let at = HEADER + index * ELEMENT;
    let field = |offset| number::<4>(bytes, at + offset).and_then(|n| usize::try_from(n).ok());
    let (position, key, value, kind) = if page == BRANCH {
        (field(0)?, field(4)?, 0, Kind::Child(number::<8>(bytes, at + 8)?))
    } else {
        let kind = match number::<4>(bytes, at)? {
            0 => Kind::Value,
            BUCKET => Kind::Bucket,
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

/// So much of a key as a sentence can bear.
pub fn shown(key: &[u8]) -> &[u8] {
    key.get(..256).unwrap_or(key)
}
