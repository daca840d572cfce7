//! The buckets and entries of one committed transaction.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use crate::damage::quote;
use crate::meta::Meta;
use crate::page::{Header, Item, PAGE_HEADER_BYTES, Page, number};
use crate::{Damage, ReadAt};

/// Branch pages above one another. With two children each they reach more pages than a file has.
const MAX_DEPTH: usize = 64;

/// Bytes of the largest page with its overflow pages. bbolt itself allows values of 2 GiB; a page
/// that claims more than this is taken for damaged rather than read.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// Bytes before the page of an inline bucket.
const BUCKET_HEADER_BYTES: usize = 16;

/// The content of the file by one of its meta pages.
pub struct Snapshot<'s, S: ?Sized> {
    source: &'s S,
    meta: Meta,
    /// Pages that can be in use.
    page_count: u64,
    /// The pages that were read; only where none may be read twice.
    seen: Option<RefCell<HashSet<u64>>>,
    /// The bytes of the pages that were read.
    bytes_read: Cell<u64>,
    max_bytes: u64,
}

/// A bucket, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The number of its root page.
    Page(u64),
    /// The only page of an inline bucket, and the number of the page that it lies in.
    Inline(Vec<u8>, u64),
}

/// The value of a key.
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
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Value,
    /// The page that the entry lies in.
    pub page: u64,
}

/// Entries that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The damage.
    pub damage: Damage,
    /// Their keys begin with this one, or are the first.
    pub from: Option<Vec<u8>>,
    /// Their keys end before this one, or are the last.
    pub to: Option<Vec<u8>>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = &self.from {
            write!(f, "from {} ", quote(from))?;
        }
        if let Some(to) = &self.to {
            write!(f, "to before {} ", quote(to))?;
        }
        write!(f, "({})", self.damage)
    }
}

impl std::error::Error for Lost {}

impl From<Lost> for Damage {
    fn from(lost: Lost) -> Self {
        lost.damage
    }
}

impl<'s, S: ReadAt + ?Sized> Snapshot<'s, S> {
    /// Of a file that is being written: its size says nothing, as it may grow at any moment.
    pub(crate) fn live(source: &'s S, meta: Meta) -> Self {
        Self::new(source, meta, meta.page_count, None)
    }

    /// Of a file of `size` bytes at rest. It may be damaged, so no page is read twice.
    pub(crate) fn at_rest(source: &'s S, meta: Meta, size: u64) -> Self {
        let page_count = meta.page_count.min(size / meta.page_size);
        Self::new(source, meta, page_count, Some(RefCell::default()))
    }

    /// Of a file without a whole meta page. Any page may be asked for, any number of times.
    pub(crate) fn without_meta(source: &'s S, page_size: u64, page_count: u64) -> Self {
        let meta = Meta { page_size, root_pgid: 0, page_count, txid: 0, checksum: 0 };
        Self::new(source, meta, page_count, None)
    }

    fn new(
        source: &'s S,
        meta: Meta,
        page_count: u64,
        seen: Option<RefCell<HashSet<u64>>>,
    ) -> Self {
        Self { source, meta, page_count, seen, bytes_read: Cell::new(0), max_bytes: u64::MAX }
    }

    /// Reads no more than `max_bytes` of pages. A read beyond that is an error.
    pub(crate) fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Whether a read failed because of [`with_max_bytes`](Self::with_max_bytes).
    pub(crate) fn is_exhausted(&self) -> bool {
        self.bytes_read.get() > self.max_bytes
    }

    /// The bytes of the pages that were read so far. Pages that are read again count again.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// The number of pages that can be in use.
    pub(crate) fn page_count(&self) -> u64 {
        self.page_count
    }

    /// The entries of one page, if it is a leaf page of a tree.
    pub(crate) fn leaf(&self, pgid: u64) -> Option<Vec<Entry>> {
        let page = self.page(pgid, None, None).ok()?;
        let mut entries = Vec::new();
        while let Some((key, item)) = page.get(entries.len()) {
            let value = match item {
                Item::Value(bytes) => Value::Bytes(bytes.to_vec()),
                Item::Bucket(bytes) => self.bucket_value(bytes, pgid, key).ok()?,
                Item::Child(_) => return None,
            };
            entries.push(Entry { key: key.to_vec(), value, page: pgid });
        }
        Some(entries)
    }

    /// The transaction that this is the state of.
    pub fn txid(&self) -> u64 {
        self.meta.txid
    }

    /// The bytes that a whole file has at least, by the high water mark.
    pub fn min_length(&self) -> u64 {
        self.meta.page_count.saturating_mul(self.meta.page_size)
    }

    /// The root bucket, which holds nothing but buckets.
    pub fn root(&self) -> Bucket {
        Bucket(Place::Page(self.meta.root_pgid))
    }

    /// The entries of a bucket, in order of keys.
    pub fn entries(&self, bucket: &Bucket) -> Entries<'_, 's, S> {
        self.entries_from(bucket, b"")
    }

    /// The entries of a bucket whose keys are not before `from`, in order of keys. Pages are read
    /// when they are needed, so `take` bounds the walk.
    pub fn entries_from(&self, bucket: &Bucket, from: &[u8]) -> Entries<'_, 's, S> {
        let mut entries = Entries {
            snapshot: self,
            start: from.to_vec(),
            levels: Vec::new(),
            pages_left: self.page_count,
            failed: None,
        };
        match &bucket.0 {
            Place::Page(pgid) => entries.enter(*pgid, None, None),
            Place::Inline(bytes, outer) => match Page::parse_inline(bytes.clone()) {
                Ok(page) => entries.push(page, *outer, None),
                Err(what) => entries.fail(Damage::new(*outer, what), None, None),
            },
        }
        entries
    }

    /// The value of a key of a bucket.
    pub fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Value>, Damage> {
        let (mut pgid, mut page) = match &bucket.0 {
            Place::Page(pgid) => (*pgid, self.page(*pgid, None, None)?),
            Place::Inline(bytes, outer) => {
                let page = Page::parse_inline(bytes.clone());
                (*outer, page.map_err(|what| Damage::new(*outer, what))?)
            }
        };
        let mut end: Option<Vec<u8>> = None;
        for _ in 0..MAX_DEPTH {
            let index = page.seek(key);
            let child = match page.get(index) {
                Some((own, Item::Child(child))) if own <= key => child,
                Some((own, Item::Value(bytes))) if own == key => {
                    return Ok(Some(Value::Bytes(bytes.to_vec())));
                }
                Some((own, Item::Bucket(bytes))) if own == key => {
                    return self.bucket_value(bytes, pgid, key).map(Some);
                }
                _ => return Ok(None),
            };
            end = page.key(index + 1).map(<[u8]>::to_vec).or(end);
            let next = self.page(child, page.key(index), end.as_deref())?;
            (pgid, page) = (child, next);
        }
        Err(too_deep(pgid))
    }

    /// The bucket to which a path of keys leads from the root bucket; nothing where a key is
    /// missing or holds no bucket.
    pub fn bucket(&self, path: &[&[u8]]) -> Result<Option<Bucket>, Damage> {
        let mut bucket = self.root();
        for key in path {
            match self.get(&bucket, key)? {
                Some(Value::Bucket(inner)) => bucket = inner,
                _ => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// The bytes of a key in the bucket to which a path leads; nothing where the bucket or the key
    /// is missing, or the key holds a bucket.
    pub fn value(&self, path: &[&[u8]], key: &[u8]) -> Result<Option<Vec<u8>>, Damage> {
        let Some(bucket) = self.bucket(path)? else { return Ok(None) };
        Ok(match self.get(&bucket, key)? {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        })
    }

    /// Takes the value of a leaf element that lies in the page `outer` as a bucket.
    fn bucket_value(&self, value: &[u8], outer: u64, key: &[u8]) -> Result<Value, Damage> {
        let parse = || {
            let (_, inline) = value.split_at_checked(BUCKET_HEADER_BYTES)?;
            Some(match number::<8>(value, 0)? {
                0 => Place::Inline(inline.to_vec(), outer),
                root_pgid => Place::Page(root_pgid),
            })
        };
        let none = || Damage::new(outer, format!("the bucket {} has no header", quote(key)));
        Ok(Value::Bucket(Bucket(parse().ok_or_else(none)?)))
    }

    /// Reads a page and its overflow pages.
    fn page(&self, pgid: u64, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Page, Damage> {
        let damage = |what: String| Damage::new(pgid, what);
        let pages = self.page_count;
        if pgid >= pages {
            return Err(damage(format!("there are only {pages} pages")));
        }
        let page_size = self.meta.page_size;
        let unread = |e: std::io::Error| damage(format!("it cannot be read: {e}"));
        let offset = pgid
            .checked_mul(page_size)
            .ok_or_else(|| damage("it lies beyond what a file can have".into()))?;
        let in_memory = |bytes: u64| usize::try_from(bytes).map_err(|e| damage(e.to_string()));
        let mut bytes = vec![0; in_memory(page_size)?];
        self.source.read_at(&mut bytes, offset).map_err(unread)?;
        let header = bytes.get(..PAGE_HEADER_BYTES).unwrap_or_default();
        let last = pgid + Header::parse(header, pgid).map_err(damage)?.overflow;
        if last >= pages {
            return Err(damage(format!("it goes on to page {last}, and there are only {pages}")));
        }
        let size = (last + 1 - pgid).saturating_mul(page_size);
        if size > MAX_PAGE_BYTES {
            return Err(damage(format!("it goes on for {size} bytes, which is not believed")));
        }
        self.bytes_read.set(self.bytes_read.get().saturating_add(size));
        if self.is_exhausted() {
            return Err(damage(format!("more than {} bytes would be read", self.max_bytes)));
        }
        if let Some(seen) = &self.seen {
            for each in pgid..=last {
                if !seen.borrow_mut().insert(each) {
                    return Err(damage(format!("page {each} is used twice")));
                }
            }
        }
        if last > pgid {
            bytes.resize(in_memory(size)?, 0);
            let (_, overflow) = bytes.split_at_mut(in_memory(page_size)?);
            self.source.read_at(overflow, offset + page_size).map_err(unread)?;
        }
        Page::parse(bytes, pgid, from, to).map_err(damage)
    }
}

fn too_deep(pgid: u64) -> Damage {
    Damage::new(pgid, format!("it lies {MAX_DEPTH} pages deep"))
}

/// A page that is being walked.
struct Level {
    page: Page,
    pgid: u64,
    next: usize,
    /// All its keys come before this one.
    to: Option<Vec<u8>>,
}

/// The entries of a bucket, in order of keys; where some cannot be read, one error for them.
pub struct Entries<'b, 's, S: ?Sized> {
    snapshot: &'b Snapshot<'s, S>,
    /// No entry before this key.
    start: Vec<u8>,
    levels: Vec<Level>,
    /// A walk that reads more pages than the file has meets some of them twice.
    pages_left: u64,
    failed: Option<Lost>,
}

impl<S: ReadAt + ?Sized> Entries<'_, '_, S> {
    fn enter(&mut self, pgid: u64, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        let page = if self.levels.len() >= MAX_DEPTH {
            Err(too_deep(pgid))
        } else if self.pages_left == 0 {
            Err(Damage::new(pgid, "the walk to it reads a page twice"))
        } else {
            self.pages_left -= 1;
            self.snapshot.page(pgid, from.as_deref(), to.as_deref())
        };
        match page {
            Ok(page) => self.push(page, pgid, to),
            Err(damage) => self.fail(damage, from, to),
        }
    }

    fn push(&mut self, page: Page, pgid: u64, to: Option<Vec<u8>>) {
        let next = page.seek(&self.start);
        self.levels.push(Level { page, pgid, next, to });
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
            let (key, page) = (key.to_vec(), level.pgid);
            level.next += 1;
            let value = match item {
                Item::Value(bytes) => Value::Bytes(bytes.to_vec()),
                Item::Bucket(bytes) => match self.snapshot.bucket_value(bytes, page, &key) {
                    Ok(value) => value,
                    Err(damage) => {
                        self.fail(damage, Some(key), None);
                        continue;
                    }
                },
                Item::Child(pgid) => {
                    let next = level.page.key(level.next).map(<[u8]>::to_vec);
                    let to = next.or_else(|| level.to.clone());
                    self.enter(pgid, Some(key), to);
                    continue;
                }
            };
            return Some(Ok(Entry { key, value, page }));
        }
    }
}
