//! Saving records out of a damaged file, without LMDB.
//!
//! Every record has a checksum of its key and its message: one that fits was written by us. What it
//! does not say is whether it is the newest of its name, or was deleted since. That depends on
//! where it is found ([`Origin`]):
//!
//! 1. All that the live meta page leads to. Pages that are damaged, and records, are noted as
//!    *gaps*: ranges of keys of which something may be missing.
//! 2. For gaps only: pages that no branch leads to any more. If the list of free pages is whole, a
//!    page that is not in it belongs to the live state.
//! 3. For gaps only: the state before the last change, from the other meta page.
//! 4. For gaps only, and only if the list of free pages is damaged as well: all pages. The caller
//!    takes the newest of each name, as far as records say.
//!
//! A page counts in 2 and 4 only if it is a leaf with the number of its place, and the inside of long
//! values is skipped where it is known: no client's label must be read as a page.

mod findings;
mod key_range;

use std::fs::File;

pub(crate) use self::findings::{Findings, Origin, Saved};
use self::key_range::KeyRange;
use crate::store::schema::keys::ROOT_PREFIX;
use crate::store::schema::value;
use lmdb_verify::layout::{Db, MAX_DEPTH, METAS, Meta, NO_PAGE, PAGE_HEADER, Page, node, page};
use lmdb_verify::pages::{Damage, PageSet, Pages};
use lmdb_verify::state::{Metas, State};

/// The most sentences about damage in [`Findings`].
const MAX_SENTENCES: usize = 100;

struct Salvage<'s, 'v> {
    pages: Pages<'s, File>,
    free: Option<PageSet>,
    /// Pages that were reached and are whole.
    reached: PageSet,
    /// Of records, and of those set aside.
    gaps: [Vec<KeyRange>; 2],
    found: Findings,
    visit: &'v mut dyn FnMut(Saved<'_>) -> crate::model::Result<()>,
}

type Result<T, E = crate::model::Error> = std::result::Result<T, E>;

/// Calls `visit` with every record of `file` that can be saved, in the order of [`Origin`]: what came
/// earlier is more certain than what comes later under the same key.
pub(crate) fn salvage(
    file: &File,
    visit: &mut dyn FnMut(Saved<'_>) -> Result<()>,
) -> Result<Findings> {
    let cannot = |damage: Damage| crate::model::Error::Internal(damage.0);
    let metas = Metas::read(file).map_err(cannot)?;
    let mut states: Vec<&Meta> = metas.0.iter().flatten().collect();
    let certain = metas.live().is_ok();
    states.sort_by_key(|meta| {
        // A number that is damaged says nothing; what a state has freed says how new it is.
        let freed = if certain { None } else { State::last_freed(file, meta) };
        std::cmp::Reverse((freed.unwrap_or(meta.transaction), meta.transaction))
    });
    // Without a meta page: pages have what this machine's LMDB gives them.
    let size = states.first().map_or(4096, |meta| meta.page_size);
    let pages = Pages::new(file, size).map_err(cannot)?;
    let present = pages.present;
    let mut salvage = Salvage {
        free: states.first().and_then(|meta| State::free_pages(file, meta).ok()),
        reached: PageSet::with_bound(present),
        gaps: [Vec::new(), Vec::new()],
        found: Findings {
            certain,
            transaction: states.first().map(|meta| meta.transaction),
            ..Findings::default()
        },
        pages,
        visit,
    };
    let verdict = metas.live().and_then(|meta| State::read(file, meta).map(drop));
    if let Err(damage) = verdict {
        salvage.note(damage);
    }
    match states.first() {
        Some(live) => salvage.state(live, Origin::Live)?,
        None => salvage.gaps = [vec![KeyRange::default()], vec![KeyRange::default()]],
    }
    if salvage.gaps.iter().all(Vec::is_empty) {
        salvage.found.whole = salvage.found.damage.is_empty();
        return Ok(salvage.found);
    }
    if salvage.free.is_some() {
        salvage.scan(Origin::Orphan)?;
    }
    if let Some(before) = states.get(1) {
        // Its pages are mostly those of the live state.
        salvage.reached = PageSet::with_bound(present);
        let free = salvage.free.take();
        let gaps = salvage.gaps.clone();
        salvage.state(before, Origin::Previous)?;
        (salvage.free, salvage.gaps) = (free, gaps);
    }
    if salvage.free.is_none() {
        salvage.reached = PageSet::with_bound(present);
        salvage.scan(Origin::Unreferenced)?;
    }
    Ok(salvage.found)
}

impl Salvage<'_, '_> {
    fn note(&mut self, damage: impl std::fmt::Display) {
        if self.found.damage.len() < MAX_SENTENCES {
            self.found.damage.push(damage.to_string());
        }
    }

    /// Something is missing between these keys.
    fn gap(
        &mut self,
        aside: bool,
        range: &KeyRange,
        origin: Origin,
        damage: impl std::fmt::Display,
    ) {
        if origin == Origin::Live {
            self.note(damage);
            let [records, set_aside] = &mut self.gaps;
            if aside { set_aside } else { records }.push(range.clone());
        }
    }

    /// All that a meta page leads to.
    fn state(&mut self, meta: &Meta, origin: Origin) -> Result<()> {
        let mut databases = Vec::new();
        self.leaves(&meta.main, origin, None, &mut |_, page, _, _| {
            for node in nodes(page) {
                if let Some(db) = Db::read(node.value) {
                    databases.push((node.key.to_vec(), db));
                }
            }
            Ok(())
        })?;
        let known = |name: &[u8]| databases.iter().find(|(n, _)| n == name).map(|(_, db)| *db);
        let (records, set_aside) = (known(b"records"), known(b"aside"));
        if origin == Origin::Live {
            if let Some(log) = known(b"log") {
                self.leaves(&log, origin, None, &mut |salvage, page, _, _| {
                    salvage.log(page);
                    Ok(())
                })?;
            }
            self.found.expected =
                records.zip(set_aside).map(|(r, a)| r.entries.saturating_add(a.entries));
            if let Some(meta) = known(b"meta") {
                self.leaves(&meta, origin, None, &mut |salvage, page, _, _| {
                    nodes(page).for_each(|node| salvage.found.facts.add(node.key, node.value));
                    Ok(())
                })?;
            }
        }
        for (aside, db) in [(false, records), (true, set_aside)] {
            match db {
                Some(db) => {
                    self.leaves(&db, origin, Some(aside), &mut |salvage, page, range, origin| {
                        salvage.leaf(page, range, aside, origin)
                    })?
                }
                None => {
                    let name = if aside { "aside" } else { "records" };
                    self.gap(
                        aside,
                        &KeyRange::default(),
                        origin,
                        format_args!("the database {name:?} cannot be found"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Looks whether the entries of the log on a leaf are whole. A recovery begins a new log: none is saved.
    fn log(&mut self, page: Page<'_>) {
        let (mut buffer, mut damaged) = (Vec::new(), 0);
        for node in nodes(page) {
            let stored = self.value(&node, &mut buffer);
            let is_whole = stored.is_some_and(|stored| value::decode(node.key, stored).is_ok());
            damaged += u64::from(!is_whole);
        }
        if damaged > 0 {
            self.note(format_args!("{damaged} entries of the log have a wrong checksum"));
        }
    }

    /// Calls `visit` with each leaf that can be reached, the keys that may be in it, and where its
    /// records come from: those of a page that has another's number may be old.
    fn leaves(
        &mut self,
        db: &Db,
        origin: Origin,
        aside: Option<bool>,
        visit: &mut dyn FnMut(&mut Self, Page<'_>, &KeyRange, Origin) -> Result<()>,
    ) -> Result<()> {
        if db.root == NO_PAGE {
            return Ok(());
        }
        let mut todo = vec![(db.root, KeyRange::default(), 1)];
        let mut buffer = Vec::new();
        while let Some((number, range, level)) = todo.pop() {
            let missing = |salvage: &mut Self, what: &dyn std::fmt::Display| {
                if let Some(aside) = aside {
                    salvage.gap(aside, &range, origin, what);
                }
            };
            let free = self.free.as_ref().is_some_and(|free| free.contains(number));
            let page = match self.pages.read_raw(number, &mut buffer) {
                Err(damage) => {
                    missing(self, &damage);
                    continue;
                }
                Ok(_)
                    if free || number < METAS || !self.reached.add(number) || level > MAX_DEPTH =>
                {
                    missing(self, &Damage::page(number, "is referred to where it is not used"));
                    continue;
                }
                Ok(page) => page,
            };
            let in_place = page.number() == Some(number);
            if !in_place {
                missing(self, &Damage::page(number, "has the number of another page"));
            }
            let flags = page.flags().unwrap_or_default() & (page::BRANCH | page::LEAF);
            let leaf = match flags {
                page::LEAF => true,
                page::BRANCH => false,
                _ => level >= db.depth,
            };
            if leaf {
                visit(self, page, &range, if in_place { origin } else { Origin::Unreferenced })?;
                continue;
            }
            let children: Vec<_> = (0..offsets(page)).map(|i| page.node(i, false)).collect();
            if children.is_empty() || children.iter().any(Option::is_none) {
                missing(self, &Damage::page(number, "has damaged nodes"));
            }
            let children: Vec<_> = children.into_iter().flatten().collect();
            for (index, child) in children.iter().enumerate() {
                let low = if index == 0 { range.low.clone() } else { Some(child.key.to_vec()) };
                let high = match children.get(index + 1) {
                    Some(next) => Some(next.key.to_vec()),
                    None => range.high.clone(),
                };
                todo.push((child.child(), KeyRange { low, high }, level + 1));
            }
        }
        Ok(())
    }

    /// Gives out the records of a leaf of records.
    fn leaf(
        &mut self,
        page: Page<'_>,
        range: &KeyRange,
        aside: bool,
        origin: Origin,
    ) -> Result<()> {
        let mut value = Vec::new();
        let number = page.number().unwrap_or_default();
        let count = offsets(page);
        if count == 0 || page.flags() != Some(page::LEAF) {
            self.gap(aside, range, origin, Damage::page(number, "is damaged"));
        }
        for index in 0..count {
            let Some(node) = page.node(index, true).filter(|node| range.has(node.key)) else {
                self.gap(aside, range, origin, Damage::page(number, "has a damaged node"));
                continue;
            };
            let stored = self.value(&node, &mut value);
            match stored.and_then(|stored| value::decode(node.key, stored).ok()) {
                Some(message) => {
                    let wanted = origin == Origin::Live || self.gap_of(node.key) == Some(aside);
                    if wanted {
                        (self.visit)(Saved { aside, key: node.key, message, origin })?;
                    }
                }
                None => {
                    if origin == Origin::Live {
                        self.found.damaged.push(node.key.to_vec());
                    }
                    self.gap(
                        aside,
                        &KeyRange::only(node.key),
                        origin,
                        Damage::page(number, "has a record whose checksum is wrong"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The bytes of a value.
    fn value<'b>(
        &self,
        found: &lmdb_verify::layout::Node<'b>,
        long: &'b mut Vec<u8>,
    ) -> Option<&'b [u8]> {
        if found.flags & node::BIG == 0 {
            return Some(found.value);
        }
        self.pages.read_overflow(found.run()?, found.size, long).ok()?;
        Some(long)
    }

    /// Whether a record with this key may be missing: of those set aside, or of the others.
    fn gap_of(&self, key: &[u8]) -> Option<bool> {
        let [records, aside] = &self.gaps;
        let has = |gaps: &[KeyRange]| gaps.iter().any(|range| range.has(key));
        if has(records) { Some(false) } else { has(aside).then_some(true) }
    }

    /// Looks through the pages that nothing led to.
    fn scan(&mut self, origin: Origin) -> Result<()> {
        let (mut buffer, mut value) = (Vec::new(), Vec::new());
        let mut number = METAS;
        while number < self.pages.present {
            let (at, skip) = (number, self.reached.contains(number));
            number += 1;
            if skip || self.free.as_ref().is_some_and(|free| free.contains(at)) {
                continue;
            }
            let Ok(page) = self.pages.read(at, &mut buffer) else { continue };
            match page.flags() {
                Some(page::LEAF) => {}
                Some(page::OVERFLOW) => {
                    let run =
                        page.run().filter(|run| at.saturating_add(*run) <= self.pages.present);
                    number = at + run.unwrap_or(1).max(1);
                    continue;
                }
                _ => continue,
            }
            for node in nodes(page).filter(|node| node.key.starts_with(ROOT_PREFIX)) {
                let Some(stored) = self.value(&node, &mut value) else { continue };
                if let (Ok(message), Some(aside)) =
                    (value::decode(node.key, stored), self.gap_of(node.key))
                {
                    (self.visit)(Saved { aside, key: node.key, message, origin })?;
                }
            }
        }
        Ok(())
    }
}

/// How many offsets a page has room for and says it has, whatever else is wrong with it.
fn offsets(page: Page<'_>) -> usize {
    let lower = page.lower().unwrap_or_default().min(page.0.len());
    page.count().unwrap_or(lower.saturating_sub(PAGE_HEADER) / 2)
}

/// The nodes of a leaf that lie in it.
fn nodes(page: Page<'_>) -> impl Iterator<Item = lmdb_verify::layout::Node<'_>> {
    (0..offsets(page)).filter_map(move |index| page.node(index, true))
}
