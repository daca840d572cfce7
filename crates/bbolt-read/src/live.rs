//! Reads a file while another process writes it. [The crate's documentation](crate) proves that the reads are
//! exact.

use std::fmt;
use std::io;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::meta::{self, Meta};
use crate::{Damage, ReadAt, Snapshot};

/// The most tries of one read, unless [`LiveReader::with_max_tries`] sets another number.
pub const DEFAULT_MAX_TRIES: u32 = 32;

/// Tries of one read, however long they take: see [`LiveReader::with_max_time`].
const MIN_TRIES: u32 = 4;

/// The result of a read, and the transaction whose state it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exact<T> {
    /// The result of the closure.
    pub value: T,
    /// The transaction. When the read began, no later transaction had been answered.
    pub txid: u64,
    /// The number of tries. A further try follows if a transaction committed during the one before.
    pub tries: u32,
}

/// The error of a live read.
#[derive(Debug)]
pub enum LiveError {
    /// The file cannot be opened.
    Open(io::Error),
    /// The path does not lead to a regular file.
    NotRegular,
    /// The file is damaged: no transaction committed while the damage was read.
    Damaged(Damage),
    /// A transaction committed during each try.
    Busy {
        /// The number of tries.
        tries: u32,
    },
    /// The pages to read have more bytes than [`LiveReader::read_at_most`] allowed.
    TooLarge {
        /// The bytes that were allowed.
        max_bytes: u64,
    },
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => write!(f, "the file cannot be opened: {e}"),
            Self::NotRegular => f.write_str("the path leads to no regular file"),
            Self::Damaged(damage) => write!(f, "the file is damaged: {damage}"),
            Self::Busy { tries } => {
                write!(f, "a transaction committed during each of {tries} tries to read the file")
            }
            Self::TooLarge { max_bytes } => {
                write!(f, "the pages to read have more than {max_bytes} bytes")
            }
        }
    }
}

impl std::error::Error for LiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(e) => Some(e),
            Self::Damaged(damage) => Some(damage),
            Self::NotRegular | Self::Busy { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// The most reads of the two meta pages until one of them is whole. Both are torn if one transaction writes the
/// first page while it is read, and the next transaction the second page. This rarely happens several times in
/// a row.
const MAX_META_READS: u32 = 32;

fn until_whole<T>(mut read: impl FnMut() -> Result<T, Damage>) -> Result<T, LiveError> {
    let mut found = read();
    for _ in 1..MAX_META_READS {
        if found.is_ok() {
            break;
        }
        found = read();
    }
    found.map_err(LiveError::Damaged)
}

/// A meta page, and its number: 0 or 1.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    meta: Meta,
    page: u64,
}

/// Reads a file that another process may write at the same time. The reader takes no lock and stores only the
/// page size of the file, so any number of threads may share it.
#[derive(Debug)]
pub struct LiveReader<S> {
    source: S,
    page_size: u64,
    max_tries: u32,
    max_time: Duration,
}

impl<S: ReadAt> LiveReader<S> {
    /// Reads the page size.
    ///
    /// # Errors
    /// [`LiveError::Damaged`] when neither meta page is whole.
    pub fn new(source: S) -> Result<Self, LiveError> {
        let (meta, _) = until_whole(|| meta::newest(&source))?;
        Ok(Self {
            source,
            page_size: meta.page_size,
            max_tries: DEFAULT_MAX_TRIES,
            max_time: Duration::MAX,
        })
    }

    /// Sets the most tries of one read; zero means one.
    #[must_use]
    pub fn with_max_tries(mut self, max_tries: u32) -> Self {
        self.max_tries = max_tries.max(1);
        self
    }

    /// Sets the time after which one read is not tried again. The tries are still four, because a read
    /// of a busy processor may take any time.
    #[must_use]
    pub fn with_max_time(mut self, max_time: Duration) -> Self {
        self.max_time = max_time;
        self
    }

    /// The source of the bytes.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The size of a page in bytes.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The newest transaction. While its number stays the same, the state of the file does not change.
    ///
    /// # Errors
    /// See [`LiveReader::read`].
    pub fn txid(&self) -> Result<u64, LiveError> {
        Ok(self.read(|_| Ok(()))?.txid)
    }

    /// Calls `read` until no transaction commits during the call, and returns the result of that call. The
    /// result is of the state of one transaction. When this method was called, no later transaction had been
    /// answered. If a transaction commits during a call, `read` may see any bytes, and its result or error is
    /// dropped. So `read` must have no side effects.
    ///
    /// # Errors
    /// [`LiveError::Busy`] when a transaction committed during each try, and [`LiveError::Damaged`] when `read`
    /// failed in a try without a commit.
    pub fn read<T>(
        &self,
        read: impl FnMut(&Snapshot<'_, S>) -> Result<T, Damage>,
    ) -> Result<Exact<T>, LiveError> {
        self.read_at_most(u64::MAX, read)
    }

    /// As [`read`](Self::read), of pages that have `max_bytes` bytes together at most. So a caller can
    /// bound the memory and the time that a record of unknown size takes.
    ///
    /// # Errors
    /// [`LiveError::TooLarge`], and those of [`read`](Self::read).
    pub fn read_at_most<T>(
        &self,
        max_bytes: u64,
        mut read: impl FnMut(&Snapshot<'_, S>) -> Result<T, Damage>,
    ) -> Result<Exact<T>, LiveError> {
        let begun = Instant::now();
        let mut tries = 0;
        while tries < self.max_tries && (tries < MIN_TRIES || begun.elapsed() < self.max_time) {
            tries += 1;
            let candidate = until_whole(|| self.candidate())?;
            let snapshot = Snapshot::live(&self.source, candidate.meta).with_max_bytes(max_bytes);
            let found = read(&snapshot);
            if !self.is_still_newest(candidate) {
                continue;
            }
            if snapshot.is_exhausted() {
                return Err(LiveError::TooLarge { max_bytes });
            }
            let value = found.map_err(LiveError::Damaged)?;
            return Ok(Exact { value, txid: candidate.meta.txid, tries });
        }
        Err(LiveError::Busy { tries })
    }

    /// The bytes of a key in the bucket to which a path leads; see [`Snapshot::value`].
    ///
    /// # Errors
    /// See [`LiveReader::read`].
    pub fn lookup(&self, path: &[&[u8]], key: &[u8]) -> Result<Exact<Option<Vec<u8>>>, LiveError> {
        self.read(|snapshot| snapshot.value(path, key))
    }

    /// Whether a path leads to a bucket.
    ///
    /// # Errors
    /// See [`LiveReader::read`].
    pub fn bucket_exists(&self, path: &[&[u8]]) -> Result<Exact<bool>, LiveError> {
        self.read(|snapshot| Ok(snapshot.bucket(path)?.is_some()))
    }

    fn meta(&self, page: u64) -> Result<Meta, Damage> {
        meta::read_page(&self.source, page, self.page_size)
    }

    /// The newest meta page that is whole. It need not be the newest of the file, as the other one
    /// may be in the middle of being overwritten: that is for the check afterwards to find.
    fn candidate(&self) -> Result<Candidate, Damage> {
        let whole = |page, meta| Ok(Candidate { meta, page });
        match (self.meta(0), self.meta(1)) {
            (Ok(first), Ok(second)) if second.txid > first.txid => whole(1, second),
            (Ok(first), _) => whole(0, first),
            (Err(_), Ok(second)) => whole(1, second),
            (Err(damage), Err(_)) => Err(damage),
        }
    }

    /// Whether the next transaction had not committed when this method was called.
    ///
    /// The order matters. The next transaction's meta page comes over the *other* page. When that
    /// is torn, either the next transaction is on its way, which does no harm, or the third one
    /// is; then the second one has committed over the candidate's own page, which is read after
    /// it and so shows it. Read in the other order, a third transaction could hide the second.
    fn is_still_newest(&self, candidate: Candidate) -> bool {
        // A processor may not move a load of what came before below the loads of the check.
        fence(Ordering::SeqCst);
        let other = self.meta(1 - candidate.page);
        fence(Ordering::SeqCst);
        let own = self.meta(candidate.page);
        let overtaken = other.is_ok_and(|other| other.txid > candidate.meta.txid);
        !overtaken && own == Ok(candidate.meta)
    }
}
