//! Walks a tree of pages and verifies it:
//!
//! - each page has its own number and kind, is in the file, and is visited once over all trees, so there is
//!   no cycle and no shared page
//! - the nodes of a page fill its upper part without gap or overlap
//! - keys rise, and lie between those of the branches above
//! - every leaf is at the depth of the tree's description, and the counts are right
//! - the run of a long value is in the file
//!
//! A visitor gets every value and interprets it. The walk does not recurse, and its depth is at most 32.

use std::cmp::Ordering;

use crate::layout;
use crate::layout::{Db, MAX_DEPTH, MAX_KEY, NO_PAGE, Node, PAGE_HEADER, Page};
use crate::pages::{Damage, PageSet, Pages, ReadAt, pages_of};

/// The content of a tree's leaves, and the order of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// LMDB's free pages by transaction: integers.
    Free,
    /// Descriptions of databases, by name.
    Main,
    /// Values.
    Values,
}

/// A value for a visitor.
#[derive(Debug, Clone, Copy)]
pub enum Value<'v> {
    /// The bytes.
    Inline(&'v [u8]),
    /// The first page of the run that holds the value, and its length in bytes.
    Overflow(u64, u32),
    /// A database.
    Tree(Db),
}

/// A visitor, called with key and value.
pub type Visit<'v> = dyn FnMut(&[u8], Value<'_>) -> Result<(), Damage> + 'v;

/// A walk over the trees of one state.
#[derive(Debug)]
pub struct TreeVerifier<'s, S: ReadAt + ?Sized> {
    /// The source of pages.
    pub pages: Pages<'s, S>,
    /// The pages of the trees that were walked.
    pub used: PageSet,
    /// The nodes of a page: the upper half has the offset, the lower half the length.
    extents: Vec<u32>,
}

/// A branch on the way down: its page, the next child, and the bounds of all keys below.
#[derive(Default)]
struct Level {
    page: Vec<u8>,
    next: usize,
    bounds: Bounds,
}

#[derive(Default, Clone)]
struct Bounds {
    /// The lowest key that the page may have.
    low: Option<Vec<u8>>,
    /// The first key behind those that the page may have.
    high: Option<Vec<u8>>,
}

impl<'s, S: ReadAt + ?Sized> TreeVerifier<'s, S> {
    /// A walk in a state whose highest page is `last_page`.
    pub fn new(pages: Pages<'s, S>, last_page: u64) -> Self {
        let bound = last_page.saturating_add(1);
        Self { pages, used: PageSet::with_bound(bound), extents: Vec::new() }
    }

    /// Walks the tree that `db` describes, and calls `visit` for each value in order of keys. The values of
    /// [`Kind::Values`] are not read.
    pub fn tree(&mut self, db: &Db, kind: Kind, visit: &mut Visit<'_>) -> Result<(), Damage> {
        let mut seen = Db { branches: 0, leaves: 0, overflow: 0, entries: 0, ..*db };
        if db.root == NO_PAGE {
            return if db.depth == 0 && seen == *db {
                Ok(())
            } else {
                Err(Damage("an empty tree has counts that are not zero".into()))
            };
        }
        if db.depth == 0 || db.depth > MAX_DEPTH {
            return Err(Damage(format!("a tree would be {} levels deep", db.depth)));
        }
        let mut leaf = Vec::new();
        let mut levels: Vec<Level> = Vec::new();
        let mut spare: Vec<Level> = Vec::new();
        let (mut number, mut bounds) = (db.root, Bounds::default());
        loop {
            self.take(number, 1)?;
            if levels.len() + 1 == usize::from(db.depth) {
                seen.leaves += 1;
                let page = self.pages.read(number, &mut leaf)?;
                self.extents.clear();
                let leaf_page = layout::page::LEAF;
                let flags = check(page, number, leaf_page, kind, &bounds, &mut self.extents)?;
                if kind == Kind::Values && flags == 0 {
                    // The usual page, whose values are all on the page: `check` has checked everything.
                    seen.entries += page.count().unwrap_or_default() as u64;
                } else {
                    self.leaf(&leaf, number, kind, &mut seen, visit)?;
                }
            } else {
                seen.branches += 1;
                let mut level = spare.pop().unwrap_or_default();
                let page = self.pages.read(number, &mut level.page)?;
                self.extents.clear();
                check(page, number, layout::page::BRANCH, kind, &bounds, &mut self.extents)?;
                level.next = 0;
                level.bounds = bounds;
                levels.push(level);
            }
            // The next child of the lowest branch that has one.
            let found = loop {
                let Some(level) = levels.last_mut() else { break None };
                match level.child() {
                    Some(child) => break Some(child),
                    None => spare.extend(levels.pop()),
                }
            };
            match found {
                Some(child) => (number, bounds) = child,
                None => break,
            }
        }
        if seen != *db {
            return Err(Damage(format!(
                "a tree has {} branches, {} leaves, {} pages of long values and {} entries, where \
                 {}, {}, {} and {} are noted",
                seen.branches,
                seen.leaves,
                seen.overflow,
                seen.entries,
                db.branches,
                db.leaves,
                db.overflow,
                db.entries
            )));
        }
        Ok(())
    }

    /// Marks pages as used by a tree.
    fn take(&mut self, first: u64, count: u64) -> Result<(), Damage> {
        let end = first.checked_add(count).filter(|end| *end <= self.pages.present);
        let end = end.ok_or_else(|| Damage::page(first, "lies behind the end of the file"))?;
        for number in first..end {
            if number < layout::METAS || !self.used.add(number) {
                return Err(Damage::page(
                    number,
                    "is referred to twice, or not part of this state",
                ));
            }
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        bytes: &[u8],
        number: u64,
        kind: Kind,
        seen: &mut Db,
        visit: &mut Visit<'_>,
    ) -> Result<(), Damage> {
        let page = Page(bytes);
        for index in 0..page.count().unwrap_or_default() {
            let Some(node) = page.node(index, true) else { continue };
            let strange = || Damage::page(number, format_args!("has a strange node {index}"));
            match (kind, node.flags) {
                (Kind::Values, 0) => seen.entries += 1,
                (Kind::Free, 0) => {
                    seen.entries += 1;
                    visit(node.key, Value::Inline(node.value))?;
                }
                (Kind::Free | Kind::Values, layout::node::BIG) => {
                    seen.entries += 1;
                    let first = node.run().ok_or_else(strange)?;
                    seen.overflow += self.run(first, node.size)?;
                    if kind == Kind::Free {
                        visit(node.key, Value::Overflow(first, node.size))?;
                    }
                }
                (Kind::Main, layout::node::TREE) => {
                    seen.entries += 1;
                    let db = Db::read(node.value).ok_or_else(strange)?;
                    visit(node.key, Value::Tree(db))?;
                }
                _ => return Err(strange()),
            }
        }
        Ok(())
    }

    /// Checks the run of pages of a long value. Returns their number.
    fn run(&mut self, first: u64, length: u32) -> Result<u64, Damage> {
        let mut header = [0; PAGE_HEADER];
        let page = self.pages.read_header(first, &mut header)?;
        let run = page.run().unwrap_or_default();
        // A value that was written again in its transaction may be shorter than its run.
        if page.flags() != Some(layout::page::OVERFLOW) || run < pages_of(length, self.pages.size) {
            return Err(Damage::page(first, "does not begin a long value"));
        }
        self.take(first, run)?;
        Ok(run)
    }
}

impl Level {
    /// The next page below, with the bounds of its keys.
    fn child(&mut self) -> Option<(u64, Bounds)> {
        let page = Page(&self.page);
        let index = self.next;
        let count = page.count()?;
        (index < count).then_some(())?;
        self.next += 1;
        let child = page.node(index, false)?.child();
        let separator = |index| page.node(index, false).map(|node| node.key.to_vec());
        // The first key of a branch stands for all below the second.
        let low = if index == 0 { self.bounds.low.clone() } else { separator(index) };
        let high = if index + 1 == count { self.bounds.high.clone() } else { separator(index + 1) };
        Some((child, Bounds { low, high }))
    }
}

/// Checks a page of nodes: kind, bounds, extents, and order of keys. Returns the flags of all its nodes.
fn check(
    page: Page<'_>,
    number: u64,
    flags: u16,
    kind: Kind,
    bounds: &Bounds,
    extents: &mut Vec<u32>,
) -> Result<u16, Damage> {
    let strange = |what: &str| Damage::page(number, what);
    let leaf = flags & layout::page::LEAF != 0;
    if page.flags() != Some(flags) {
        return Err(strange(if leaf { "is no leaf" } else { "is no branch" }));
    }
    let count = page.count().ok_or_else(|| strange("has no sound bounds"))?;
    // LMDB lets a branch of the free tree have one child; elsewhere it would end the process.
    let least = if leaf || kind == Kind::Free { 1 } else { 2 };
    if count < least {
        return Err(strange("has too few nodes"));
    }
    let mut before: Option<Node<'_>> = None;
    let mut flags_seen = 0;
    for index in 0..count {
        let node = page.node(index, leaf);
        let node = node.ok_or_else(|| strange("has a node that reaches out of it"))?;
        flags_seen |= node.flags;
        // Neither is more than a page, 32,768.
        extents.push((node.at as u32) << 16 | node.length as u32);
        if !leaf && index == 0 {
            continue;
        }
        let sound = match kind {
            Kind::Free => node.key.len() == 8,
            _ => (1..=MAX_KEY).contains(&node.key.len()),
        };
        let rises = match before.as_ref().map(|b| b.key).or(bounds.low.as_deref()) {
            None => true,
            Some(low) => match compare(kind, low, node.key) {
                Ordering::Less => true,
                // The separator may be the first key below it.
                Ordering::Equal => leaf && before.is_none(),
                Ordering::Greater => false,
            },
        };
        if !sound || !rises {
            return Err(strange("has keys out of order"));
        }
        before = Some(node);
    }
    if let (Some(last), Some(high)) = (before, &bounds.high)
        && compare(kind, last.key, high) != Ordering::Less
    {
        return Err(strange("has keys that belong to another page"));
    }
    extents.sort_unstable();
    let filled = extents.iter().try_fold(page.upper().unwrap_or_default() as u32, |end, extent| {
        (extent >> 16 == end).then_some(end + (extent & 0xffff))
    });
    match filled {
        Some(end) if end as usize == page.0.len() => Ok(flags_seen),
        _ => Err(strange("has nodes that overlap, or gaps between them")),
    }
}

fn compare(kind: Kind, a: &[u8], b: &[u8]) -> Ordering {
    match kind {
        Kind::Free => layout::u64_at(a, 0).cmp(&layout::u64_at(b, 0)),
        _ => a.cmp(b),
    }
}
