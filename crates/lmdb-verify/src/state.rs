//! Verifies one state of a file: its meta page, all trees that the meta page leads to, and all free pages.
//! A file has two meta pages, so it has two states: the live one and the one before.

use crate::layout::{Db, INTEGER_KEYS, METAS, Meta, NO_PAGE, u64_at};
use crate::pages::{Damage, PageSet, Pages, ReadAt};
use crate::tree::{Kind, TreeVerifier, Value};

/// The largest map in bytes that the verifier accepts. The verifier takes one bit of memory for each page,
/// so this constant bounds its memory.
pub const MAX_MAP_SIZE: u64 = 1 << 40;

/// The most attempts to read a meta page while a writer keeps changing it.
const MAX_READS: usize = 100;

/// Both meta pages: for each the decoded page, or a sentence that says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metas(pub [Result<Meta, String>; 2]);

/// The summary of a state without damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Id of the transaction that wrote this state.
    pub transaction: u64,
    /// Size of a page in bytes.
    pub page_size: usize,
    /// The full length of the file in bytes. The file itself may be shorter: LMDB may never have written
    /// the free pages at its end.
    pub length: u64,
    /// Number of pages in use.
    pub used: u64,
    /// Number of free pages.
    pub free: u64,
    /// Number of pages that are neither in use nor free. They do no harm, but LMDB never uses them again;
    /// only a copy of the data into a new file saves their space.
    pub leaked: u64,
    /// The databases by name, in order.
    pub databases: Vec<(String, Db)>,
}

impl Metas {
    /// Reads both meta pages. A writer may commit between the two reads, so this function reads them again
    /// until their transaction ids differ by at most one, or until two attempts give the same.
    pub fn read<S: ReadAt + ?Sized>(source: &S) -> Result<Self, Damage> {
        let mut metas = Self::read_once(source)?;
        for _ in 0..MAX_READS {
            if metas.follow_one_another() {
                break;
            }
            let before = std::mem::replace(&mut metas, Self::read_once(source)?);
            if metas == before {
                break;
            }
        }
        Ok(metas)
    }

    /// Whether the two meta pages are of consecutive transactions. LMDB writes them in turn, so they always
    /// are; in an empty file both have transaction 0.
    fn follow_one_another(&self) -> bool {
        let [Ok(first), Ok(second)] = &self.0 else { return false };
        first.transaction.abs_diff(second.transaction) <= 1
    }

    fn read_once<S: ReadAt + ?Sized>(source: &S) -> Result<Self, Damage> {
        let length = source.length().map_err(|e| Damage(format!("its length is unknown: {e}")))?;
        let read = |number, at: u64| {
            let mut bytes = [0; crate::layout::PAGE_HEADER + crate::layout::META];
            if length < at.saturating_add(bytes.len() as u64) {
                return Err(format!("is missing: the file has {length} bytes"));
            }
            // A read during a write may return parts of the old and of the new page. So read until two reads
            // in a row are equal.
            for _ in 0..MAX_READS {
                let before = bytes;
                let read = source.read_at(&mut bytes, at);
                read.map_err(|e| format!("cannot be read: {e}"))?;
                if bytes == before {
                    return Meta::read(&bytes, number);
                }
            }
            Err("changes all the time".into())
        };
        let first = read(0, 0);
        // The first meta page tells the page size. If that page is damaged, assume the usual 4 KiB.
        let second = read(1, first.as_ref().map_or(4096, |meta| meta.page_size as u64));
        Ok(Self([first, second]))
    }

    /// The meta page that LMDB will use: the newer one.
    ///
    /// # Errors
    /// Damage that makes both meta pages unsafe for LMDB.
    pub fn live(&self) -> Result<&Meta, Damage> {
        let mut whole = Vec::new();
        for (number, meta) in self.0.iter().enumerate() {
            let meta = meta.as_ref().map_err(|why| Damage(format!("meta page {number} {why}")))?;
            // A transaction writes meta page 0 if its id is even, and meta page 1 if it is odd. In an empty
            // file both pages have id 0.
            if meta.transaction != 0 && meta.transaction % 2 != number as u64 {
                return Err(Damage(format!(
                    "meta page {number} has transaction {}",
                    meta.transaction
                )));
            }
            whole.push(meta);
        }
        let [first, second] = whole.as_slice() else {
            return Err(Damage("a meta page is missing".into()));
        };
        if first.page_size != second.page_size {
            return Err(Damage("its meta pages disagree on the size of a page".into()));
        }
        let (older, live) =
            if second.transaction > first.transaction { (first, second) } else { (second, first) };
        if !self.follow_one_another() {
            return Err(Damage(format!(
                "its meta pages are of transactions {} and {}, which do not follow one another",
                older.transaction, live.transaction
            )));
        }
        Ok(live)
    }

    /// The meta page other than `live`, if it is readable.
    pub fn other(&self, live: &Meta) -> Option<&Meta> {
        self.0.iter().flatten().find(|meta| meta.transaction != live.transaction)
    }
}

impl State {
    /// Id of the last transaction that freed pages, usually the one that wrote the state. `None` if the list
    /// of free pages is damaged.
    pub fn last_freed<S: ReadAt + ?Sized>(source: &S, meta: &Meta) -> Option<u64> {
        length(meta).ok()?;
        let mut last = None;
        let mut walk = TreeVerifier::new(Pages::new(source, meta.page_size).ok()?, meta.last_page);
        let walked = walk.tree(&meta.free, Kind::Free, &mut |key, _| {
            last = u64_at(key, 0);
            Ok(())
        });
        walked.ok().and(last)
    }

    /// The free pages of the state of `meta`.
    ///
    /// # Errors
    /// The damage of the list of free pages.
    pub fn free_pages<S: ReadAt + ?Sized>(source: &S, meta: &Meta) -> Result<PageSet, Damage> {
        length(meta)?;
        let tree = &mut TreeVerifier::new(Pages::new(source, meta.page_size)?, meta.last_page);
        let lists = free_lists(tree, meta)?;
        let pages = Pages::new(source, meta.page_size)?;
        let mut walk = TreeVerifier::new(pages, meta.last_page);
        walk_lists(&mut walk, lists)?;
        Ok(walk.used)
    }

    /// Verifies the state of the live meta page.
    ///
    /// # Errors
    /// The damage that makes the file unsafe for LMDB to map.
    pub fn read_live<S: ReadAt + ?Sized>(source: &S) -> Result<Self, Damage> {
        Self::read(source, Metas::read(source)?.live()?)
    }

    /// Verifies the state of `meta`.
    ///
    /// # Errors
    /// The damage of this state.
    pub fn read<S: ReadAt + ?Sized>(source: &S, meta: &Meta) -> Result<Self, Damage> {
        let length = length(meta)?;
        let pages = Pages::new(source, meta.page_size)?;
        for (what, root) in [("free pages", meta.free.root), ("databases", meta.main.root)] {
            if root != NO_PAGE && root > meta.last_page {
                return Err(Damage(format!("the tree of {what} begins behind the last page")));
            }
        }
        if meta.free.flags != INTEGER_KEYS || meta.main.flags != 0 {
            return Err(Damage("its databases are of another kind than ours".into()));
        }
        let mut walk = TreeVerifier::new(pages, meta.last_page);
        let mut databases = Vec::new();
        walk.tree(&meta.main, Kind::Main, &mut |name, value| {
            if let Value::Tree(db) = value {
                databases.push((String::from_utf8_lossy(name).into_owned(), db));
            }
            Ok(())
        })?;
        walk_databases(&mut walk, &databases, || {
            Ok(TreeVerifier::new(Pages::new(source, meta.page_size)?, meta.last_page))
        })?;
        let free = free_pages(&mut walk, meta)?;
        // LMDB never wrote the pages after the end of the file, so all of them must be free.
        let unwritten = (meta.last_page + 1).saturating_sub(walk.pages.present);
        if free.beyond_end != unwritten {
            return Err(Damage(format!(
                "{unwritten} pages are missing at its end, of which {} were free",
                free.beyond_end
            )));
        }
        let used = walk.used.count - free.count;
        Ok(Self {
            transaction: meta.transaction,
            page_size: meta.page_size,
            length,
            used,
            free: free.count,
            leaked: (meta.last_page + 1).saturating_sub(METAS + used + free.count),
            databases,
        })
    }
}

/// A database with at least this many leaf pages is verified on its own thread. For a smaller database,
/// starting a thread takes more time than it saves.
const MIN_THREAD_LEAVES: u64 = 32;

/// The most threads that verify large databases. Without this bound a damaged file could cause any number
/// of threads.
const MAX_THREADS: usize = 4;

/// Walks all databases. Each large database gets a thread and a `fresh` walk. Afterwards the sets of their
/// pages are merged into `walk`, which finds a page that two databases share.
fn walk_databases<'s, S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'s, S>,
    databases: &[(String, Db)],
    fresh: impl Fn() -> Result<TreeVerifier<'s, S>, Damage> + Sync,
) -> Result<(), Damage> {
    let one = |walk: &mut TreeVerifier<'s, S>, name: &str, db: &Db| {
        if (db.flags, db.pad) != (0, 0) {
            return Err(Damage(format!("database {name:?} has flags that are not supported")));
        }
        walk.tree(db, Kind::Values, &mut |_, _| Ok(()))
            .map_err(|damage| Damage(format!("{damage} (in {name:?})")))
    };
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for (name, db) in databases {
            if db.leaves < MIN_THREAD_LEAVES || others.len() == MAX_THREADS {
                one(walk, name, db)?;
                continue;
            }
            let (one, fresh) = (&one, &fresh);
            others.push(scope.spawn(move || {
                let mut walk = fresh()?;
                one(&mut walk, name, db)?;
                Ok(walk.used)
            }));
        }
        for other in others {
            let used: Result<PageSet, Damage> = other
                .join()
                .unwrap_or_else(|_| Err(Damage("the check of a database panicked".into())));
            walk.used.merge(&used?).map_err(|page| {
                Damage::page(page, "is referred to twice, or not part of this state")
            })?;
        }
        Ok(())
    })
}

/// The full length in bytes that the file has according to `meta`.
fn length(meta: &Meta) -> Result<u64, Damage> {
    let bytes = meta
        .last_page
        .checked_add(1)
        .and_then(|pages| pages.checked_mul(meta.page_size as u64))
        .filter(|bytes| *bytes <= MAX_MAP_SIZE && meta.last_page + 1 >= METAS);
    let bytes =
        bytes.ok_or_else(|| Damage(format!("its last page would be number {}", meta.last_page)))?;
    if meta.map_size > MAX_MAP_SIZE || meta.map_size < bytes {
        return Err(Damage(format!("its map would have {} bytes", meta.map_size)));
    }
    Ok(bytes)
}

struct FreePages {
    count: u64,
    /// Number of free pages after the end of the file.
    beyond_end: u64,
}

/// Walks LMDB's lists of free pages. Each list is stored under the id of the transaction that freed the
/// pages: first the number of pages, then their page numbers in descending order. A listed page must not be
/// in use, and must not be listed twice.
fn free_pages<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    meta: &Meta,
) -> Result<FreePages, Damage> {
    let lists = free_lists(walk, meta)?;
    walk_lists(walk, lists)
}

/// A list of free pages, as it is stored.
enum FreeList {
    /// Inside a leaf page.
    Inline(Vec<u8>),
    /// On overflow pages: the number of the first one, and the length in bytes.
    Overflow(u64, u32),
}

fn free_lists<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    meta: &Meta,
) -> Result<Vec<FreeList>, Damage> {
    let mut lists = Vec::new();
    walk.tree(&meta.free, Kind::Free, &mut |key, value| {
        let transaction = u64_at(key, 0).unwrap_or_default();
        if transaction == 0 || transaction > meta.transaction {
            return Err(Damage(format!("pages would be free since transaction {transaction}")));
        }
        lists.push(match value {
            Value::Inline(bytes) => FreeList::Inline(bytes.to_vec()),
            Value::Overflow(first, length) => FreeList::Overflow(first, length),
            Value::Tree(_) => FreeList::Inline(Vec::new()),
        });
        Ok(())
    })
    .map_err(|damage| Damage(format!("{damage} (in the list of free pages)")))?;
    Ok(lists)
}

fn walk_lists<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    lists: Vec<FreeList>,
) -> Result<FreePages, Damage> {
    let mut free = FreePages { count: 0, beyond_end: 0 };
    let mut bytes = Vec::new();
    for list in lists {
        match list {
            FreeList::Inline(list) => bytes = list,
            FreeList::Overflow(first, length) => {
                walk.pages.read_overflow(first, length, &mut bytes)?
            }
        }
        walk_list(walk, &bytes, &mut free)?;
    }
    Ok(free)
}

fn walk_list<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    list: &[u8],
    free: &mut FreePages,
) -> Result<(), Damage> {
    let malformed = || Damage("a list of free pages is damaged".into());
    let count = usize::try_from(u64_at(list, 0).ok_or_else(malformed)?).map_err(|_| malformed())?;
    let end = count.checked_add(1).and_then(|n| n.checked_mul(8)).ok_or_else(malformed)?;
    let numbers = list.get(8..end).ok_or_else(malformed)?;
    let mut previous = u64::MAX;
    for number in numbers.chunks_exact(8) {
        let number = u64_at(number, 0).ok_or_else(malformed)?;
        if number >= previous || number < METAS || !walk.used.add(number) {
            return Err(Damage::page(number, "is listed as free, but is in use or listed twice"));
        }
        previous = number;
        free.count += 1;
        free.beyond_end += u64::from(number >= walk.pages.present);
    }
    Ok(())
}
