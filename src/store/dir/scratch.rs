//! Temporary folders. If the process that created one was killed, a later command removes it.
//!
//! Each folder has a name with a prefix of this program, and is locked (`flock`) while its process runs. A process
//! removes a folder that it can lock. If a folder was removed between its creation and its lock, its creator
//! creates another one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::model::{Error, Result};
use crate::store::dir::disk_space;

/// The prefix of the names of all scratch files.
pub(crate) const PREFIX: &str = ".lmdb-images-tmp-";

/// A temporary folder. It is removed when this is dropped, or by [`remove_abandoned`].
#[derive(Debug)]
pub(crate) struct ScratchFolder {
    // Drop order: the folder is removed while it is still locked.
    folder: TempDir,
    _lock: Flock<File>,
}

impl ScratchFolder {
    /// Creates a temporary folder in the folder `parent`, with mode 0700. First removes the folders that killed
    /// processes have left there.
    pub(crate) fn create_in(parent: &Path) -> Result<Self> {
        remove_abandoned(parent);
        let to_error = |e: io::Error| {
            if e.kind() == ErrorKind::NotFound && !parent.exists() {
                return Error::NotFound(format!(
                    "the folder {} does not exist: create it, or name another",
                    parent.display()
                ));
            }
            let what = format!("making a temporary folder in {}: {e}", parent.display());
            if disk_space::is_full_error(&e) {
                return Error::ResourceExhausted(what);
            }
            Error::Internal(what)
        };
        loop {
            let folder =
                tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(to_error)?;
            let lock = open(folder.path())
                .and_then(|file| lock(file, FlockArg::LockExclusive))
                .and_then(|lock| Ok(is_at(&lock, folder.path())?.then_some(lock)));
            match lock {
                Ok(Some(lock)) => return Ok(Self { folder, _lock: lock }),
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(to_error(e)),
            }
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the temporary folders in `parent` that no process has locked. Logs a folder that cannot be
/// removed, and leaves it: it does no harm.
pub(crate) fn remove_abandoned(parent: &Path) {
    let log_error = |e: io::Error| {
        log::warn!("looking for temporary folders in {}: {e}", parent.display());
    };
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return,
        Err(e) => return log_error(e),
    };
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) => {
                let path = entry.path();
                match remove_if_abandoned(&path) {
                    Ok(true) => {
                        log::info!("removed {}, which a killed process left", path.display())
                    }
                    Ok(false) => {}
                    Err(e) => log::warn!("removing {}: {e}", path.display()),
                }
            }
            Ok(_) => {}
            Err(e) => return log_error(e),
        }
    }
}

fn remove_if_abandoned(path: &Path) -> io::Result<bool> {
    let folder = match open(path) {
        // Its creator, or another process that cleans up, has removed it meanwhile.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    // If other users may write in the parent, a folder with that name may be theirs.
    if folder.metadata()?.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let lock = match lock(folder, FlockArg::LockExclusiveNonblock) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
        locked => locked?,
    };
    match is_at(&lock, path) {
        Ok(true) => fs::remove_dir_all(path).map(|()| true),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(false),
    }
}

fn open(folder: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(folder)
}

fn lock(mut folder: File, how: FlockArg) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(folder, how) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EINTR)) => folder = unlocked,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Whether the open folder still has that name.
fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    let (open, found) = (folder.metadata()?, fs::symlink_metadata(path)?);
    Ok((open.dev(), open.ino()) == (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn only_a_folder_without_a_lock_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let held = ScratchFolder::create_in(dir.path()).unwrap();
        fs::write(held.path().join("f"), "").unwrap();
        // As a killed process leaves it.
        let left = dir.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("f"), "").unwrap();
        fs::create_dir(dir.path().join("another")).unwrap();
        std::os::unix::fs::symlink("another", dir.path().join(format!("{PREFIX}link"))).unwrap();
        remove_abandoned(dir.path());
        assert!(!left.exists());
        assert!(held.path().join("f").exists());
        assert_eq!(count(dir.path()), 3);
        drop(held);
        assert_eq!(count(dir.path()), 2);
    }

    #[test]
    fn creating_a_folder_removes_leftovers_but_no_folder_in_use() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(format!("{PREFIX}left"))).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let made = ScratchFolder::create_in(dir.path()).unwrap();
                        fs::write(made.path().join("f"), "").unwrap();
                    }
                });
            }
        });
        assert_eq!(count(dir.path()), 0);
    }
}
