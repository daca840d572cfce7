//! The buckets of a file and their entries, in order of keys.
//!
//! Nothing is searched: a bucket is walked from its first entry to its last, and no page is read
//! twice. A page that cannot be read is one error, and the walk goes on behind it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use super::meta::{self, Meta};
use super::page::{HEADER, Header, Item, Page, shown};
use super::{Damage, ReadAt, number};
use crate::model::go::quote::quote;

/// Branches above one another. With two children each they reach more pages than a file can have.
const MAX_DEPTH: usize = 64;

/// The largest page with those it goes on for. containerd takes no request over 16 MiB, and bolt
/// puts at least two entries into a page.
const MAX_PAGE: u64 = 256 << 20;

/// Before the page of an inline bucket.
const BUCKET_HEADER: usize = 16;

/// An open bolt file.
pub struct Bolt<'s, S: ?Sized> {
    source: &'s S,
    meta: Meta,
    /// Bytes of pages in use that the file has.
    size: u64,
    /// What is wrong with the meta page that is not used.
    other: Option<Damage>,
    /// The pages that were read.
    seen: RefCell<HashSet<u64>>,
}

/// A bucket, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The number of its root page.
    Page(u64),
    /// Its only page, and the number of the page that this lies in.
    Inline(Vec<u8>, u64),
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    Bytes(Vec<u8>),
    /// A bucket in the bucket.
    Bucket(Bucket),
}

/// An entry of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// What it holds.
    pub value: Value,
    /// The page that it lies in.
    pub page: u64,
}

/// Entries that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What is wrong.
    pub damage: Damage,
    /// Their keys begin with this one, or are the first.
    pub from: Option<Vec<u8>>,
    /// Their keys end before this one, or are the last.
    pub to: Option<Vec<u8>>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = &self.from {
            write!(f, "from {} ", quote(shown(from)))?;
        }
        if let Some(to) = &self.to {
            write!(f, "to before {} ", quote(shown(to)))?;
        }
        write!(f, "({})", self.damage)
    }
}

impl<'s, S: ReadAt + ?Sized> Bolt<'s, S> {
    /// Reads the meta pages.
    pub fn open(source: &'s S) -> Result<Self, Damage> {
        let told = |e| Damage::new(0, format!("the size of the file cannot be had: {e}"));
        let size = source.size().map_err(told)?;
        let (meta, other) = meta::newest(source)?;
        let size = size.min(meta.end.saturating_mul(meta.page_size));
        Ok(Self { source, meta, size, other, seen: RefCell::default() })
    }

    /// What is wrong with the meta page that is not used: if something is, the last transaction may
    /// be missing.
    pub fn other_meta(&self) -> Option<&Damage> {
        self.other.as_ref()
    }

    /// The entries of the root bucket.
    pub fn root(&self) -> Entries<'_, 's, S> {
        self.entries(&Bucket(Place::Page(self.meta.root)))
    }

    /// The entries of a bucket.
    pub fn entries(&self, bucket: &Bucket) -> Entries<'_, 's, S> {
        let mut entries = Entries { bolt: self, levels: Vec::new(), failed: None };
        match &bucket.0 {
            Place::Page(id) => entries.enter(*id, None, None),
            Place::Inline(bytes, outer) => match Page::parse(bytes.clone(), 0, None, None) {
                Ok(page) => entries.levels.push(Level::new(page, *outer, None)),
                Err(what) => {
                    entries.fail(Damage::new(*outer, format!("in a bucket: {what}")), None, None);
                }
            },
        }
        entries
    }

    /// Reads a page and those it goes on for, once.
    fn page(&self, id: u64, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Page, Damage> {
        let damage = |what: String| Damage::new(id, what);
        let pages = self.size / self.meta.page_size;
        if id >= pages {
            return Err(damage(format!("there are only {pages} pages")));
        }
        let at = id * self.meta.page_size;
        let unread = |e: std::io::Error| damage(format!("it cannot be read: {e}"));
        let mut header = [0; HEADER];
        self.source.read_at(&mut header, at).map_err(unread)?;
        let last = id + Header::parse(&header, id).map_err(damage)?.overflow;
        if last >= pages {
            return Err(damage(format!("it goes on to page {last}, and there are only {pages}")));
        }
        let size = (last + 1 - id) * self.meta.page_size;
        if size > MAX_PAGE {
            return Err(damage(format!("it goes on for {size} bytes, which is not believed")));
        }
        for each in id..=last {
            if !self.seen.borrow_mut().insert(each) {
                return Err(damage(format!("page {each} is used twice")));
            }
        }
        let size = usize::try_from(size).map_err(|e| damage(e.to_string()))?;
        let mut bytes = vec![0; size];
        self.source.read_at(&mut bytes, at).map_err(unread)?;
        Page::parse(bytes, id, from, to).map_err(damage)
    }
}

/// A page that is being walked.
struct Level {
    page: Page,
    id: u64,
    next: usize,
    /// All its keys come before this one.
    to: Option<Vec<u8>>,
}

impl Level {
    fn new(page: Page, id: u64, to: Option<Vec<u8>>) -> Self {
        Self { page, id, next: 0, to }
    }
}

/// The entries of a bucket, in order of keys; where some cannot be read, one error for them.
pub struct Entries<'b, 's, S: ?Sized> {
    bolt: &'b Bolt<'s, S>,
    levels: Vec<Level>,
    failed: Option<Lost>,
}

impl<S: ReadAt + ?Sized> Entries<'_, '_, S> {
    fn enter(&mut self, id: u64, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        let page = if self.levels.len() < MAX_DEPTH {
            self.bolt.page(id, from.as_deref(), to.as_deref())
        } else {
            Err(Damage::new(id, format!("it lies {MAX_DEPTH} pages deep")))
        };
        match page {
            Ok(page) => self.levels.push(Level::new(page, id, to)),
            Err(damage) => self.fail(damage, from, to),
        }
    }

    fn fail(&mut self, damage: Damage, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        self.failed = Some(Lost { damage, from, to });
    }
}

impl<S: ReadAt + ?Sized> Iterator for Entries<'_, '_, S> {
    type Item = Result<Entry, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(lost) = self.failed.take() {
                return Some(Err(lost));
            }
            let level = self.levels.last_mut()?;
            let Some((key, item)) = level.page.get(level.next) else {
                self.levels.pop();
                continue;
            };
            let key = key.to_vec();
            let here = level.id;
            level.next += 1;
            let value = match item {
                Item::Value(bytes) => Value::Bytes(bytes.to_vec()),
                Item::Bucket(bytes) => match bucket(bytes, here) {
                    Some(bucket) => Value::Bucket(bucket),
                    None => {
                        let what = format!("the bucket {} has no header", quote(shown(&key)));
                        self.fail(Damage::new(here, what), Some(key), None);
                        continue;
                    }
                },
                Item::Child(id) => {
                    let next = level.page.key(level.next).map(<[u8]>::to_vec);
                    let to = next.or_else(|| level.to.clone());
                    self.enter(id, Some(key), to);
                    continue;
                }
            };
            return Some(Ok(Entry { key, value, page: here }));
        }
    }
}

/// The bucket in a value that lies in the page `outer`.
fn bucket(value: &[u8], outer: u64) -> Option<Bucket> {
    let (_, inline) = value.split_at_checked(BUCKET_HEADER)?;
    Some(Bucket(match number::<8>(value, 0)? {
        0 => Place::Inline(inline.to_vec(), outer),
        root => Place::Page(root),
    }))
}
