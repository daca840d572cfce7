//! LMDB's reader table: which process holds which snapshot.
//!
//! LMDB reuses no page that an open snapshot may see, so a snapshot that a process holds for long
//! makes the file grow. heed exposes only the length of the reader table, so this module reads the
//! table from `lock.mdb` with `pread`: all processes map that file, and a read returns the latest
//! content.
//!
//! **The handle stays open.** A process marks itself as alive with a POSIX lock on `lock.mdb`. The
//! kernel releases that lock when the process closes *any* handle of the file. So no other code of a
//! process with an open environment may open the file, and the handle here must outlive the
//! environment.

use crate::store::dir::files::LOCK_FILE;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::model::{Context, Error, Result};
use crate::store::bounds::MAX_READERS;
use crate::store::dir::{disk_space, permissions};

/// A snapshot that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSnapshot {
    /// The process id.
    pub process: u32,
    /// The id of the thread that took the snapshot, as LMDB records it.
    pub thread: u64,
    /// The id of the last transaction that the snapshot sees.
    pub snapshot: u64,
    /// Whether the process is alive. LMDB does not free the slot of a killed process on its own.
    pub alive: bool,
}

/// LMDB's reader table.
#[derive(Debug)]
pub(crate) struct ReaderTable {
    /// `None` on a read-only file system, which has no table.
    file: Option<File>,
}

/// Layout of `MDB_txninfo` and `MDB_reader` in LMDB 0.9 (lock version 2), on 64-bit machines.
const MAGIC: u32 = 0xBEEF_C0DE;
const LOCK_VERSION: u32 = 2;
const LOCK_VERSION_BITS: u32 = 0xfff;
const LAST_TRANSACTION_OFFSET: u64 = 8;
const SLOT_COUNT_OFFSET: usize = 16;
const SLOT_BYTES: usize = 64;
/// The transaction of a slot that is taken but has no snapshot.
const NO_SNAPSHOT: u64 = u64::MAX;

/// The offset of the slots, in bytes: behind a header with one mutex and a second mutex, each on its own
/// cache lines.
const fn first_slot() -> usize {
    let mutex = size_of::<libc::pthread_mutex_t>();
    (SLOT_COUNT_OFFSET + 8 + mutex).next_multiple_of(SLOT_BYTES)
        + mutex.next_multiple_of(SLOT_BYTES)
}

/// Makes the table of the folder if need be, and gives it all its blocks: LMDB would make it sparse
/// and then write to it as memory, which on a full disk ends the process by SIGBUS.
///
/// No environment of this process may be open there, unless the table has its blocks: this closes a
/// handle of it.
pub(crate) fn allocate_table(root: &Path) -> Result<()> {
    let path = root.join(LOCK_FILE);
    let found = permissions::stat_regular(&path)?;
    if found.is_some_and(|found| found.len() > 0 && disk_space::is_allocated(&found)) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let allocated = options.open(&path).and_then(|file| {
        // Another process may have mapped a table of another length: it stays as it is.
        let length = match file.metadata()?.len() {
            0 => (first_slot() + SLOT_BYTES * MAX_READERS as usize) as u64,
            length => length,
        };
        disk_space::allocate(&file, length)
    });
    match allocated {
        Err(e) if disk_space::is_full_error(&e) => {
            Err(Error::ResourceExhausted(format!("making {}: {e}", path.display())))
        }
        // LMDB reads without a table there.
        Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(e) => Err(Error::Internal(format!("making {}: {e}", path.display()))),
        Ok(()) => Ok(()),
    }
}

impl ReaderTable {
    /// Opens the table of the environment in `root`, which must be open already, and must be closed
    /// before this is dropped.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let path = root.join(LOCK_FILE);
        let opened =
            OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path);
        match opened {
            Ok(file) => Ok(Self { file: Some(file) }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self { file: None }),
            Err(e) => Err(Error::Internal(format!("opening {}: {e}", path.display()))),
        }
    }

    /// The number of the transaction that a snapshot taken now would see; `None` without a table.
    pub(crate) fn last_transaction(&self) -> Result<Option<u64>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut number = [0; 8];
        file.read_exact_at(&mut number, LAST_TRANSACTION_OFFSET)
            .or_internal("reading the readers' table")?;
        Ok(Some(u64::from_ne_bytes(number)))
    }

    /// The snapshots that are held, the oldest first.
    pub(crate) fn held(&self) -> Result<Vec<HeldSnapshot>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let length =
            usize::try_from(file.metadata().or_internal("reading the readers' table")?.len())
                .unwrap_or(usize::MAX);
        // As many as a table of a million slots would have; ours has 512.
        let mut table = vec![0; length.min(64 << 20)];
        file.read_exact_at(&mut table, 0).or_internal("reading the readers' table")?;
        let (head, slots) = table.split_at_checked(first_slot()).unwrap_or_default();
        if word32(head, 0) != MAGIC || word32(head, 4) & LOCK_VERSION_BITS != LOCK_VERSION {
            return Err(Error::failed_precondition("lock.mdb is not of this program's LMDB"));
        }
        let taken = slots.chunks_exact(SLOT_BYTES).take(word32(head, SLOT_COUNT_OFFSET) as usize);
        let mut held: Vec<HeldSnapshot> = taken
            .filter(|slot| word32(slot, 8) != 0 && word64(slot, 0) != NO_SNAPSHOT)
            .map(|slot| HeldSnapshot {
                process: word32(slot, 8),
                thread: word64(slot, 16),
                snapshot: word64(slot, 0),
                alive: is_alive(file, word32(slot, 8)),
            })
            .collect();
        held.sort_by_key(|held| held.snapshot);
        Ok(held)
    }
}

/// Whether the process holds its lock on the table, at the byte of its number. If the
/// kernel cannot say so, the process counts as alive.
fn is_alive(table: &File, process: u32) -> bool {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: process.into(),
        l_len: 1,
        l_pid: 0,
    };
    // A process is not asked about locks of its own.
    if process == std::process::id() {
        return true;
    }
    loop {
        match fcntl(table, FcntlArg::F_GETLK(&mut lock)) {
            Err(Errno::EINTR) => {}
            Err(_) => return true,
            Ok(_) => return lock.l_type != libc::F_UNLCK as libc::c_short,
        }
    }
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_ne_bytes(word.copied().unwrap_or_default())
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u64::from_ne_bytes(word.copied().unwrap_or_default())
}

/// The program of a process and its first argument, such as `lmdb-images ls`. `None` if they cannot be read.
pub(crate) fn command_line(process: u32) -> Option<String> {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words);
    let mut words = words.split('\0').filter(|word| !word.is_empty());
    let program = words.next()?.rsplit('/').next()?.to_owned();
    Some(words.next().map_or(program.clone(), |first| format!("{program} {first}")))
}

/// How many seconds ago a process started. Nothing when that cannot be known.
pub(crate) fn seconds_since_start(process: u32) -> Option<u64> {
    /// The unit in which the kernel shows times to programs, whatever unit it uses itself.
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The 22nd field; the second is a name that may hold blanks and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let started: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: u64 = uptime.split('.').next()?.parse().ok()?;
    Some(uptime.saturating_sub(started / TICKS_A_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ReadOnlyStore, Store};

    #[test]
    fn the_table_has_the_length_that_lmdb_wants_and_all_its_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let table = || std::fs::metadata(dir.path().join(LOCK_FILE)).unwrap();
        drop(Store::open(dir.path()).unwrap());
        let length = table().len();
        assert!(disk_space::is_allocated(&table()));
        // As LMDB makes it by itself.
        std::fs::remove_file(dir.path().join(LOCK_FILE)).unwrap();
        let mut options = heed::EnvOpenOptions::new();
        // SAFETY: nothing else has the file of this test.
        drop(unsafe { options.max_readers(MAX_READERS).open(dir.path()) }.unwrap());
        assert_eq!(table().len(), length);
        assert!(!disk_space::is_allocated(&table()));
        drop(Store::open(dir.path()).unwrap());
        assert!(disk_space::is_allocated(&table()));
    }

    #[test]
    fn an_open_snapshot_is_in_the_reader_table() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.readers().unwrap(), []);
        // The first change has LMDB's file say that it needs its journal.
        let ns = crate::model::Namespace::parse("first").unwrap();
        store.writer().write_blocking(move |c| c.put_namespace(&ns, b"")).unwrap();
        store.checkpoint().unwrap();
        let last = store.last_commit().unwrap();
        let held = store.read(|_| store.readers()).unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(
            (held[0].process, held[0].snapshot, held[0].alive),
            (std::process::id(), last, true)
        );
        store
            .read(|_| {
                let ns = crate::model::Namespace::parse("n").unwrap();
                store.writer().write_blocking(move |c| c.put_namespace(&ns, b""))?;
                store.checkpoint()?;
                assert_eq!(store.last_commit().unwrap() - store.readers()?[0].snapshot, 1);
                Ok(())
            })
            .unwrap();
        assert_eq!(store.readers().unwrap(), []);
    }

    #[test]
    fn a_reader_sees_the_table_too() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let reader = ReadOnlyStore::open(dir.path()).unwrap();
        assert_eq!(reader.readers().unwrap(), []);
        assert_eq!(reader.read(|_| reader.readers()).unwrap().len(), 1);
    }

    #[test]
    fn a_process_is_called_by_its_program() {
        assert!(
            super::command_line(std::process::id()).is_some_and(|c| c.starts_with("lmdb_images"))
        );
        assert!(super::seconds_since_start(std::process::id()).is_some_and(|s| s < 3_600));
        assert_eq!(super::command_line(u32::MAX), None);
        assert_eq!(super::seconds_since_start(u32::MAX), None);
    }
}
