//! A lock file, which one process at a time can lock.
//!
//! The lock is a `flock`, which the kernel releases however the process ends. The file has the process id of its
//! last holder, only for messages. It stays after the lock is released: its removal could hit the file of the
//! next holder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{major, minor};

/// The guard of a lock: its drop releases the lock.
#[derive(Debug)]
pub(crate) struct LockFile(Flock<File>);

/// The reason why a file could not be locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has the lock.
    Held(Option<u32>),
    /// The operation that failed, and its error.
    Io(&'static str, io::Error),
}

impl LockFile {
    /// Creates the file if it is missing, with mode 0600, and locks it. It follows no link.
    pub(crate) fn acquire(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(|e| LockError::Io("opening", e))?;
        let mut lock = lock(file, path)?;
        note_pid(&mut lock).map_err(|e| LockError::Io("writing", e))?;
        Ok(Self(lock))
    }

    /// Locks an existing file, and does not write to it.
    pub(crate) fn lock(path: &Path) -> Result<Self, LockError> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
        Ok(Self(lock(file.map_err(|e| LockError::Io("opening", e))?, path)?))
    }

    /// The metadata of the open file.
    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.0.metadata()
    }
}

fn lock(file: File, path: &Path) -> Result<Flock<File>, LockError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        // Between locking and writing, the file has the number of an earlier holder.
        Errno::EWOULDBLOCK => LockError::Held(holder(path).or_else(|| noted_pid(path))),
        errno => LockError::Io("locking", errno.into()),
    })
}

/// Overwrites the file instead of truncating it first: a full disk may have no space for a new block.
fn note_pid(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    writeln!(file, "pid {}", std::process::id())?;
    let end = file.stream_position()?;
    file.set_len(end)
}

/// The holder of a lock, for a message.
pub(crate) fn describe(holder: Option<u32>) -> String {
    holder.map_or_else(|| "starting".into(), |pid| format!("pid {pid}"))
}

/// The process that has locked the lock file, from the kernel's list of locks. An attempt to take the lock could
/// make another process fail that takes it at the same time.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    listed_holder(&file).or_else(|| noted_pid(path).filter(|process| has_open(*process, &file)))
}

/// The process that has locked the file, from the kernel's list of locks.
fn listed_holder(file: &fs::Metadata) -> Option<u32> {
    let (major, minor) = (major(file.dev()), minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // As in "1: FLOCK  ADVISORY  WRITE 4711 08:01:123 0 EOF".
    let lock = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut holders = lock.filter_map(|words| match words.as_slice() {
        [_, "FLOCK", _, "WRITE", process, at, ..] if *at == place => process.parse().ok(),
        _ => None,
    });
    holders.next()
}

/// The process that has written its number into the lock file: the last holder.
fn noted_pid(path: &Path) -> Option<u32> {
    // The opening of a named pipe would wait for a writer.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    fs::read_to_string(path).ok()?.trim().strip_prefix("pid ")?.parse().ok()
}

/// Whether the process has the file open. The holder always has; another process only for a moment. On an overlay
/// and on btrfs, the kernel's list of locks has another device number than the file, so this check is needed.
fn has_open(process: u32, file: &fs::Metadata) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let same = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
    open.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_known_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&path), None);
        let lock = LockFile::acquire(&path).unwrap();
        let us = Some(std::process::id());
        assert_eq!(holder(&path), us);
        assert!(matches!(LockFile::acquire(&path), Err(LockError::Held(pid)) if pid == us));
        let file = fs::metadata(&path).unwrap();
        assert_eq!(noted_pid(&path), us);
        assert!(has_open(std::process::id(), &file));
        drop(lock);
        assert!(!has_open(std::process::id(), &file));
        assert_eq!(holder(&path), None);
        LockFile::acquire(&path).unwrap();
    }
}
