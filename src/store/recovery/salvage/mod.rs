//! Saves records from a damaged file, without LMDB.
//!
//! Every record has a checksum of its key and its message. A record with a correct checksum was written by
//! this program. The checksum does not tell whether the record is the newest version of its name, or was
//! deleted later. That depends on the place of the record ([`Origin`]). A salvage searches these places, in
//! this order:
//!
//! 1. The pages that the live meta page leads to. A damaged page or record is a *gap*: a range of keys in
//!    which records may be missing. The other steps save only records in gaps.
//! 2. Pages that no other page refers to, if the list of free pages is readable. A page that is neither
//!    reached nor free belongs to the live state.
//! 3. The state before the last checkpoint, which the other meta page leads to.
//! 4. All other pages, if the list of free pages is damaged. If a name has several records here, the caller
//!    keeps the one with the latest update time.
//!
//! Steps 2 and 4 use only leaf pages that contain their own page number, and skip the pages of long values
//! whose first page is readable. Otherwise a client could store a label that looks like a page.

mod findings;
mod key_range;

use std::fs::File;

pub(crate) use self::findings::{Findings, Origin, SavedRecord};
use self::key_range::KeyRange;
use crate::store::schema::keys::ROOT_PREFIX;
use crate::store::schema::table::Table;
use crate::store::schema::value;
use lmdb_verify::layout::{Db, MAX_DEPTH, METAS, Meta, NO_PAGE, PAGE_HEADER, Page, node, page};
use lmdb_verify::pages::{Damage, PageSet, Pages};
use lmdb_verify::state::{Metas, State};

/// The most lines about damage in [`Findings`].
const MAX_REPORTED_DAMAGE: usize = 100;

struct Salvage<'s, 'v> {
    pages: Pages<'s, File>,
    /// The free pages, if their list is readable.
    free: Option<PageSet>,
    /// The whole pages that the salvage has reached.
    reached: PageSet,
    /// The gaps in the records, and those in the records that are set aside.
    gaps: [Vec<KeyRange>; 2],
    found: Findings,
    visit: &'v mut dyn FnMut(SavedRecord<'_>) -> crate::model::Result<()>,
}

type Result<T, E = crate::model::Error> = std::result::Result<T, E>;

/// Calls `visit` with every record of `file` that can be saved, in the order of [`Origin`]. Of two records
/// with one key, the earlier one is the more certain.
pub(crate) fn salvage(
    file: &File,
    visit: &mut dyn FnMut(SavedRecord<'_>) -> Result<()>,
) -> Result<Findings> {
    let to_error = |damage: Damage| crate::model::Error::Internal(damage.0);
    let metas = Metas::read(file).map_err(to_error)?;
    let mut states: Vec<&Meta> = metas.0.iter().flatten().collect();
    let is_newest_known = metas.live().is_ok();
    states.sort_by_key(|meta| {
        // If a transaction's number may be damaged, the newest entry in its list of free pages shows how new
        // its state is.
        let freed = if is_newest_known { None } else { State::last_freed(file, meta) };
        std::cmp::Reverse((freed.unwrap_or(meta.transaction), meta.transaction))
    });
    // Without a meta page, assume the page size that LMDB uses on this machine.
    let size = states.first().map_or(4096, |meta| meta.page_size);
    let pages = Pages::new(file, size).map_err(to_error)?;
    let present = pages.present;
    let mut salvage = Salvage {
        free: states.first().and_then(|meta| State::free_pages(file, meta).ok()),
        reached: PageSet::with_bound(present),
        gaps: [Vec::new(), Vec::new()],
        found: Findings {
            is_newest_known,
            transaction: states.first().map(|meta| meta.transaction),
            ..Findings::default()
        },
        pages,
        visit,
    };
    let verdict = metas.live().and_then(|meta| State::read(file, meta).map(drop));
    if let Err(damage) = verdict {
        salvage.report(damage);
    }
    match states.first() {
        Some(live) => salvage.visit_state(live, Origin::Live)?,
        None => salvage.gaps = [vec![KeyRange::default()], vec![KeyRange::default()]],
    }
    if salvage.gaps.iter().all(Vec::is_empty) {
        salvage.found.is_whole = salvage.found.damage.is_empty();
        return Ok(salvage.found);
    }
    if salvage.free.is_some() {
        salvage.scan_pages(Origin::Orphan)?;
    }
    if let Some(before) = states.get(1) {
        // Most pages of the previous state belong to the live state too, and are reached again.
        salvage.reached = PageSet::with_bound(present);
        let free = salvage.free.take();
        let gaps = salvage.gaps.clone();
        salvage.visit_state(before, Origin::Previous)?;
        (salvage.free, salvage.gaps) = (free, gaps);
    }
    if salvage.free.is_none() {
        salvage.reached = PageSet::with_bound(present);
        salvage.scan_pages(Origin::Unreferenced)?;
    }
    Ok(salvage.found)
}

impl Salvage<'_, '_> {
    fn report(&mut self, damage: impl std::fmt::Display) {
        if self.found.damage.len() < MAX_REPORTED_DAMAGE {
            self.found.damage.push(damage.to_string());
        }
    }

    /// Adds a gap of `table` if `range` is in the live state.
    fn add_gap(
        &mut self,
        table: Table,
        range: &KeyRange,
        origin: Origin,
        damage: impl std::fmt::Display,
    ) {
        if origin == Origin::Live {
            self.report(damage);
            let [records, set_aside] = &mut self.gaps;
            if table == Table::SetAside { set_aside } else { records }.push(range.clone());
        }
    }

    /// Visits the pages that a meta page leads to.
    fn visit_state(&mut self, meta: &Meta, origin: Origin) -> Result<()> {
        let mut databases = Vec::new();
        self.visit_leaves(&meta.main, origin, None, &mut |_, page, _, _| {
            for node in nodes(page) {
                if let Some(db) = Db::read(node.value) {
                    databases.push((node.key.to_vec(), db));
                }
            }
            Ok(())
        })?;
        let database = |name: &[u8]| databases.iter().find(|(n, _)| n == name).map(|(_, db)| *db);
        let (records, set_aside) = (database(b"records"), database(b"aside"));
        if origin == Origin::Live {
            if let Some(log) = database(b"log") {
                self.visit_leaves(&log, origin, None, &mut |salvage, page, _, _| {
                    salvage.check_log(page);
                    Ok(())
                })?;
            }
            self.found.expected_records =
                records.zip(set_aside).map(|(r, a)| r.entries.saturating_add(a.entries));
            if let Some(meta) = database(b"meta") {
                self.visit_leaves(&meta, origin, None, &mut |salvage, page, _, _| {
                    nodes(page).for_each(|node| salvage.found.identity.add(node.key, node.value));
                    Ok(())
                })?;
            }
        }
        for (table, db) in [(Table::Records, records), (Table::SetAside, set_aside)] {
            match db {
                Some(db) => self.visit_leaves(
                    &db,
                    origin,
                    Some(table),
                    &mut |salvage, page, range, origin| {
                        salvage.save_leaf(page, range, table, origin)
                    },
                )?,
                None => {
                    let name = table.name();
                    self.add_gap(
                        table,
                        &KeyRange::default(),
                        origin,
                        format_args!("the database {name:?} cannot be found"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Checks the log entries on a leaf. A recovery begins a new log, so it saves no entry.
    fn check_log(&mut self, page: Page<'_>) {
        let (mut buffer, mut damaged) = (Vec::new(), 0);
        for node in nodes(page) {
            let stored = self.value(&node, &mut buffer);
            let is_whole = stored.is_some_and(|stored| value::decode(node.key, stored).is_ok());
            damaged += u64::from(!is_whole);
        }
        if damaged > 0 {
            self.report(format_args!("{damaged} entries of the log have a wrong checksum"));
        }
    }

    /// Calls `visit` with each leaf of a tree, the range of keys that the leaf may have, and the origin of
    /// its records. A page with the number of another page may be old, so its records are
    /// [`Origin::Unreferenced`]. A missing page of `table` becomes a gap.
    fn visit_leaves(
        &mut self,
        db: &Db,
        origin: Origin,
        table: Option<Table>,
        visit: &mut dyn FnMut(&mut Self, Page<'_>, &KeyRange, Origin) -> Result<()>,
    ) -> Result<()> {
        if db.root == NO_PAGE {
            return Ok(());
        }
        let mut todo = vec![(db.root, KeyRange::default(), 1)];
        let mut buffer = Vec::new();
        while let Some((number, range, level)) = todo.pop() {
            let missing = |salvage: &mut Self, what: &dyn std::fmt::Display| {
                if let Some(table) = table {
                    salvage.add_gap(table, &range, origin, what);
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
            let has_own_number = page.number() == Some(number);
            if !has_own_number {
                missing(self, &Damage::page(number, "has the number of another page"));
            }
            let flags = page.flags().unwrap_or_default() & (page::BRANCH | page::LEAF);
            let leaf = match flags {
                page::LEAF => true,
                page::BRANCH => false,
                _ => level >= db.depth,
            };
            if leaf {
                visit(
                    self,
                    page,
                    &range,
                    if has_own_number { origin } else { Origin::Unreferenced },
                )?;
                continue;
            }
            let children: Vec<_> = (0..node_count(page)).map(|i| page.node(i, false)).collect();
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

    /// Passes the records of a leaf to `visit`.
    fn save_leaf(
        &mut self,
        page: Page<'_>,
        range: &KeyRange,
        table: Table,
        origin: Origin,
    ) -> Result<()> {
        let mut value = Vec::new();
        let number = page.number().unwrap_or_default();
        let count = node_count(page);
        if count == 0 || page.flags() != Some(page::LEAF) {
            self.add_gap(table, range, origin, Damage::page(number, "is damaged"));
        }
        for index in 0..count {
            let Some(node) = page.node(index, true).filter(|node| range.contains(node.key)) else {
                self.add_gap(table, range, origin, Damage::page(number, "has a damaged node"));
                continue;
            };
            let stored = self.value(&node, &mut value);
            match stored.and_then(|stored| value::decode(node.key, stored).ok()) {
                Some(message) => {
                    let wanted = origin == Origin::Live || self.gap_with(node.key) == Some(table);
                    if wanted {
                        (self.visit)(SavedRecord { table, key: node.key, message, origin })?;
                    }
                }
                None => {
                    if origin == Origin::Live {
                        self.found.damaged_keys.push(node.key.to_vec());
                    }
                    self.add_gap(
                        table,
                        &KeyRange::of_key(node.key),
                        origin,
                        Damage::page(number, "has a record whose checksum is wrong"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The bytes of a value: in its leaf, or in `long`, read from the value's own pages.
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

    /// The table with a gap that contains the key. The gaps of `records` come first.
    fn gap_with(&self, key: &[u8]) -> Option<Table> {
        let [records, set_aside] = &self.gaps;
        let contains = |gaps: &[KeyRange]| gaps.iter().any(|range| range.contains(key));
        if contains(records) {
            Some(Table::Records)
        } else {
            contains(set_aside).then_some(Table::SetAside)
        }
    }

    /// Searches the pages that are neither reached nor free.
    fn scan_pages(&mut self, origin: Origin) -> Result<()> {
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
                if let (Ok(message), Some(table)) =
                    (value::decode(node.key, stored), self.gap_with(node.key))
                {
                    (self.visit)(SavedRecord { table, key: node.key, message, origin })?;
                }
            }
        }
        Ok(())
    }
}

/// The number of nodes by the page's header, which may be damaged.
fn node_count(page: Page<'_>) -> usize {
    let lower = page.lower().unwrap_or_default().min(page.0.len());
    page.count().unwrap_or(lower.saturating_sub(PAGE_HEADER) / 2)
}

/// The nodes of a leaf whose bytes are inside the page.
fn nodes(page: Page<'_>) -> impl Iterator<Item = lmdb_verify::layout::Node<'_>> {
    (0..node_count(page)).filter_map(move |index| page.node(index, true))
}
