//! A whole state of a file, from its meta page on: all trees, all free pages.

use crate::layout::{Db, INTEGER_KEYS, METAS, Meta, NO_PAGE, u64_at};
use crate::pages::{Damage, PageSet, Pages, ReadAt};
use crate::tree::{Kind, TreeVerifier, Value};

/// The largest map that is not refused, in bytes. It bounds the memory of the verifier, a bit per page.
pub const MAX_MAP_SIZE: u64 = 1 << 40;

/// The most reads of a meta page beside a writer that changes it each time.
const MAX_READS: usize = 100;

/// Both meta pages, each decoded or with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metas(pub [Result<Meta, String>; 2]);

/// The summary of a state without damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The transaction that wrote it.
    pub transaction: u64,
    /// Bytes of a page.
    pub page_size: usize,
    /// The full length of the file, in bytes. The file may lack free pages at its end that LMDB never wrote.
    pub length: u64,
    /// Pages in use.
    pub used: u64,
    /// Free pages.
    pub free: u64,
    /// Pages that are neither used nor free: harmless, but only a copy gives their space back.
    pub leaked: u64,
    /// The databases by name, in order.
    pub databases: Vec<(String, Db)>,
}

impl Metas {
    /// Reads both. A writer may commit between the two reads, so they are repeated until the transactions
    /// follow one another, or until nothing changes.
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

    /// Every transaction but an empty file's has the one before it on the other page.
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
            // Beside a writer a read may fall into a write, and have half of each.
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
        // The first page has the page size. If it is damaged, 4 KiB is the usual one.
        let second = read(1, first.as_ref().map_or(4096, |meta| meta.page_size as u64));
        Ok(Self([first, second]))
    }

    /// The meta page that LMDB will use.
    ///
    /// # Errors
    /// Damage because of which LMDB must use neither.
    pub fn live(&self) -> Result<&Meta, Damage> {
        let mut whole = Vec::new();
        for (number, meta) in self.0.iter().enumerate() {
            let meta = meta.as_ref().map_err(|why| Damage(format!("meta page {number} {why}")))?;
            // A transaction is written to the page of its parity; none has number 0.
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

    /// The meta page that is not `live` and can be read.
    pub fn other(&self, live: &Meta) -> Option<&Meta> {
        self.0.iter().flatten().find(|meta| meta.transaction != live.transaction)
    }
}

impl State {
    /// The last transaction that freed pages, if the list of free pages is whole: usually that of the state.
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

    /// The free pages of a state, if their list is whole.
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
    /// The damage because of which LMDB must not map the file.
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
        // Pages after the end of the file were never written, so they must be free.
        let unwritten = (meta.last_page + 1).saturating_sub(walk.pages.present);
        if free.beyond != unwritten {
            return Err(Damage(format!(
                "{unwritten} pages are missing at its end, of which {} were free",
                free.beyond
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

/// A database with at least this many leaves is verified on a thread of its own; for a smaller one a
/// thread costs more than it saves.
const LARGE: u64 = 32;

/// The most threads: a damaged file may seem to have any number of databases.
const THREADS: usize = 4;

/// Walks all databases, the large ones in parallel, each in a `fresh` walk. Merging the sets of their pages
/// finds pages that two of them share.
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
            if db.leaves < LARGE || others.len() == THREADS {
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

/// The full length of the file of a state, in bytes.
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

struct Free {
    count: u64,
    /// Free pages after the end of the file.
    beyond: u64,
}

/// Walks LMDB's lists of free pages. A list has, under the transaction that freed the pages, a count and that
/// many falling numbers. A page in a list must not be in use, nor be listed twice.
fn free_pages<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    meta: &Meta,
) -> Result<Free, Damage> {
    let lists = free_lists(walk, meta)?;
    walk_lists(walk, lists)
}

/// A list, or the first page and length of its run.
type List = Result<Vec<u8>, (u64, u32)>;

fn free_lists<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    meta: &Meta,
) -> Result<Vec<List>, Damage> {
    let mut lists = Vec::new();
    walk.tree(&meta.free, Kind::Free, &mut |key, value| {
        let transaction = u64_at(key, 0).unwrap_or_default();
        if transaction == 0 || transaction > meta.transaction {
            return Err(Damage(format!("pages would be free since transaction {transaction}")));
        }
        lists.push(match value {
            Value::Here(bytes) => Ok(bytes.to_vec()),
            Value::Long(first, length) => Err((first, length)),
            Value::Tree(_) => Ok(Vec::new()),
        });
        Ok(())
    })
    .map_err(|damage| Damage(format!("{damage} (in the list of free pages)")))?;
    Ok(lists)
}

fn walk_lists<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    lists: Vec<List>,
) -> Result<Free, Damage> {
    let mut free = Free { count: 0, beyond: 0 };
    let mut bytes = Vec::new();
    for list in lists {
        match list {
            Ok(list) => bytes = list,
            Err((first, length)) => walk.pages.long(first, length, &mut bytes)?,
        }
        one_list(walk, &bytes, &mut free)?;
    }
    Ok(free)
}

fn one_list<S: ReadAt + ?Sized>(
    walk: &mut TreeVerifier<'_, S>,
    list: &[u8],
    free: &mut Free,
) -> Result<(), Damage> {
    let strange = || Damage("a list of free pages is damaged".into());
    let count = usize::try_from(u64_at(list, 0).ok_or_else(strange)?).map_err(|_| strange())?;
    let end = count.checked_add(1).and_then(|n| n.checked_mul(8)).ok_or_else(strange)?;
    let numbers = list.get(8..end).ok_or_else(strange)?;
    let mut before = u64::MAX;
    for number in numbers.chunks_exact(8) {
        let number = u64_at(number, 0).ok_or_else(strange)?;
        if number >= before || number < METAS || !walk.used.add(number) {
            return Err(Damage::page(number, "is listed as free, but is in use or listed twice"));
        }
        before = number;
        free.count += 1;
        free.beyond += u64::from(number >= walk.pages.present);
    }
    Ok(())
}
