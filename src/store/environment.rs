//! The LMDB environment of a store that is owned: opened, and opened again after its disk failed.
//!
//! After a failed write of a meta page LMDB refuses everything until the environment is closed. So
//! whoever meets that refusal, a read or the writer, has it opened again: new users wait, those
//! that are inside end, the file is closed, verified, settled and mapped. While that fails, as the
//! disk is still bad, everybody is told so, and one of the later callers tries once more.
//!
//! A transaction that LMDB aborted needs none of this, not even when it was the sync that failed.
//! The kernel may then have dropped what was not written, and will say so once only; but LMDB
//! writes every page of a transaction again in the next one that uses it, and all that a
//! committed transaction refers to was synced before its meta page was. A later success therefore
//! never rests on the failed sync.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use heed::{Env, EnvOpenOptions, WithoutTls};

use super::commit::{Committer, Failure};
use super::journal::entry::Changes;
use super::readers::Readers;
use super::recent::Recent;
use super::root::{DATA_FILE, Root};
use super::schema::{self, Tables};
use super::shown::Shown;
use super::{MAP_SIZE, MAX_READERS, MIN_MAP_SIZE, failure, folder, identity, settle, verify};
use crate::model::{Error, Result};

/// After a failed attempt to open again, so long nobody tries.
const PAUSE: Duration = Duration::from_secs(1);

/// And at least so many times as long as that attempt took: verifying a large store must not be
/// all that a machine with a bad disk does.
const PAUSE_PER_ATTEMPT: u32 = 10;

/// The environment of an owned folder.
pub(super) struct Environment {
    // Dropped in this order: the environment, its readers' table (see `readers`), the folder.
    state: RwLock<State>,
    readers: Readers,
    uuid: String,
    root: Root,
}

enum State {
    Open(Arc<Opened>),
    /// Opening it again failed.
    Closed {
        why: Error,
        next_attempt: Instant,
    },
}

/// An open environment. It is closed when the last holder lets go of it, so nobody keeps it longer
/// than a transaction takes.
pub(super) struct Opened {
    committer: Mutex<Committer>,
    pub shown: Shown,
    pub env: Env<WithoutTls>,
    pub tables: Tables,
    /// Which opening this is.
    number: u64,
}

impl Opened {
    /// Commits changes, which lead to `recent`.
    pub fn commit(&self, recent: Recent, changes: Changes) -> Result<(), Failure> {
        self.committer().commit(&self.env, &self.tables, &self.shown, (recent, changes))
    }

    /// Brings what is recent into LMDB's file.
    pub fn checkpoint(&self) -> Result<(), Failure> {
        let recent = self.shown.recent();
        self.committer().checkpoint(&self.env, &self.tables, &self.shown, recent)
    }

    /// Brings what is recent into LMDB's file, which needs no journal from then on.
    pub fn close(&self) -> Result<(), Failure> {
        self.committer().close(&self.env, &self.tables, &self.shown)
    }

    /// Mostly the writing thread asks for it.
    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Environment {
    /// Opens the environment in a folder, creating it if need be.
    pub fn open(root: Root) -> Result<Self> {
        let (opened, uuid) = open(&root, 0)?;
        let readers = Readers::open(root.path())?;
        Ok(Self { state: RwLock::new(State::Open(Arc::new(opened))), readers, uuid, root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// What tells this store from all others.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Whether the file system is as good as full. LMDB tells of a write that found too little room
    /// as of any other that was cut short.
    pub fn is_full(&self) -> bool {
        const LITTLE: u64 = 1 << 20;
        nix::sys::statvfs::statvfs(self.root.path())
            .is_ok_and(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()) < LITTLE)
    }

    /// LMDB's table of readers.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// The open environment, for one transaction. Whoever holds one must not ask for another.
    pub fn get(&self) -> Result<Arc<Opened>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) => return Ok(Arc::clone(opened)),
            State::Closed { why, next_attempt } if Instant::now() < *next_attempt => {
                return Err(why.clone());
            }
            State::Closed { .. } => {}
        }
        self.replace(None)
    }

    /// Whether there is something for a checkpoint to do.
    pub fn has_work(&self) -> bool {
        self.is(|opened| opened.committer().has_work(&opened.shown))
    }

    /// Whether a checkpoint is due before the next change.
    pub fn is_due(&self) -> bool {
        self.is(|opened| opened.committer().is_due(&opened.shown))
    }

    fn is(&self, so: impl FnOnce(&Opened) -> bool) -> bool {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(opened) => so(opened),
            State::Closed { .. } => false,
        }
    }

    /// Closes a broken environment, once all transactions in it have ended, and opens it again.
    pub fn reopen(&self, broken: Arc<Opened>) -> Result<Arc<Opened>> {
        let number = broken.number;
        // What waits for the end of all holders must not be one.
        drop(broken);
        self.replace(Some(number))
    }

    fn replace(&self, broken: Option<u64>) -> Result<Arc<Opened>> {
        // From here on nobody comes in.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let number = match &*state {
            // Somebody else was faster.
            State::Open(opened) if broken != Some(opened.number) => return Ok(Arc::clone(opened)),
            State::Closed { why, next_attempt } if now < *next_attempt => return Err(why.clone()),
            State::Open(opened) => opened.number,
            State::Closed { .. } => broken.unwrap_or_default(),
        };
        let closed = State::Closed { why: unavailable("it is closing"), next_attempt: now };
        if let State::Open(opened) = std::mem::replace(&mut *state, closed) {
            log::warn!("LMDB refuses the environment after a failed write; opening it again");
            let closing = opened.env.clone().prepare_for_closing();
            drop(opened);
            closing.wait();
        }
        match open(&self.root, number.wrapping_add(1)) {
            Ok((opened, _)) => {
                log::info!("the store is open again");
                let opened = Arc::new(opened);
                *state = State::Open(Arc::clone(&opened));
                Ok(opened)
            }
            Err(e) => {
                log::error!("the store cannot be opened again: {e}");
                let why = unavailable(e.message());
                let pause = PAUSE.max(now.elapsed().saturating_mul(PAUSE_PER_ATTEMPT));
                *state = State::Closed { why: why.clone(), next_attempt: Instant::now() + pause };
                Err(why)
            }
        }
    }
}

fn unavailable(why: &str) -> Error {
    Error::Unavailable(format!(
        "a write to the disk failed, and the store cannot be opened again: {why}; it is tried again"
    ))
}

/// Verifies, settles and opens, the `number`th time; in an empty folder makes a store. Gives the
/// store's UUID too.
fn open(root: &Root, number: u64) -> Result<(Opened, String)> {
    let file = root.data_file();
    if folder::look(&file)?.is_none_or(|found| found.len() == 0) {
        identity::check_without_data(root.path())?;
        create(root)?;
    }
    verify::before_mapping(&file)?;
    let newest = settle::settle(&file)?;
    let env = map(root.path())?;
    if env.info().last_txn_id as u64 != newest {
        return Err(Error::Unavailable(format!(
            "{} was left by a failed write in a state that another process, which has it open, \
             does not know; end that process",
            file.display()
        )));
    }
    let (tables, uuid) = schema::open(&env, root.path())?;
    identity::check(root.path(), &uuid)?;
    let (committer, shown) = Committer::open(root, &env, &tables, &uuid)?;
    identity::write(root.path(), &uuid)?;
    root.sync()?;
    Ok((Opened { committer: Mutex::new(committer), shown, env, tables, number }, uuid))
}

/// Makes an empty store beside its place and then moves it there, so that a power cut in between
/// leaves no store, rather than a part of one that would have to be refused.
fn create(root: &Root) -> Result<()> {
    let aside = root.path().join("new");
    let told = |e| Error::Internal(format!("making a store in {}: {e}", root.path().display()));
    // What a cut in an earlier attempt left.
    if aside.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&aside).map_err(told)?;
    }
    let aside = folder::create(&aside, 0o700)?;
    let env = map(&aside)?;
    schema::open(&env, &aside)?;
    env.prepare_for_closing().wait();
    let file = std::fs::File::open(aside.join(DATA_FILE)).map_err(told)?;
    file.sync_all().map_err(told)?;
    std::fs::rename(aside.join(DATA_FILE), root.data_file()).map_err(told)?;
    std::fs::remove_dir_all(&aside).map_err(told)?;
    root.sync()
}

/// Maps the environment in `root`, with as much address space as the process may have.
pub(super) fn map(root: &Path) -> Result<Env<WithoutTls>> {
    let mut size = MAP_SIZE;
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(size).max_readers(MAX_READERS).max_dbs(schema::DATABASES);
        // SAFETY: the file was verified (`verify::before_mapping`), or it is new, and belongs to us
        // while `Root` is held: nobody else changes it but through LMDB.
        let opened = unsafe { options.open(root) };
        match opened {
            // An address-space limit (RLIMIT_AS, a small machine): take what there is.
            Err(heed::Error::Io(e))
                if e.kind() == std::io::ErrorKind::OutOfMemory && size / 2 >= MIN_MAP_SIZE =>
            {
                size /= 2;
            }
            Err(e) => return Err(failure(&format!("opening {}", root.display()), &e)),
            Ok(env) => {
                if size < MAP_SIZE {
                    log::warn!(
                        "address space is limited: the store can grow to {} MiB only",
                        size >> 20
                    );
                }
                return Ok(env);
            }
        }
    }
}
