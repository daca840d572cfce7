//! The folder of a store: created closed to others, owned by one process at a time, synced.
//!
//! Owning is a `flock` on `owner.lock`, which ends with the process however it ends. LMDB's own
//! `lock.mdb` coordinates readers and is no sign of an owner.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{major, minor};

use super::{filesystem, folder, journal};
use crate::model::{Error, Result};

/// LMDB's data file in the folder.
pub const DATA_FILE: &str = "data.mdb";

/// An owned folder. Dropping it gives it up.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    /// Missing where nothing can be written, and so nobody ever owned it.
    _owner: Option<Flock<File>>,
}

impl Root {
    /// Creates the folder if need be (mode 0700) and becomes its owner. Refuses one that others may
    /// change, that lies on another machine, or in which a link stands in the place of a file.
    pub fn acquire(path: &Path) -> Result<Self> {
        let path = folder::create(path, 0o700)?;
        filesystem::check(&path)?;
        let told = |doing: &str| {
            let at = path.display().to_string();
            let doing = doing.to_owned();
            move |e: std::io::Error| Error::Internal(format!("{doing} {at}: {e}"))
        };
        for file in ["owner.lock", DATA_FILE, "lock.mdb", journal::FILE] {
            folder::close_file(&path.join(file))?;
        }
        let owner = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path.join("owner.lock"))
            .map_err(told("opening owner.lock in"))?;
        let mut owner = lock(owner, &path)?;
        let note = |owner: &mut File| {
            // Written over: a full disk may have no room for what was given up.
            owner.rewind()?;
            writeln!(owner, "pid {}", std::process::id())?;
            let end = owner.stream_position()?;
            owner.set_len(end)
        };
        note(&mut owner).map_err(told("writing owner.lock in"))?;
        Ok(Self { path, _owner: Some(owner) })
    }

    /// Becomes the owner of a folder in order to read its files, and changes nothing in it: it may lie on
    /// a read-only file system, and belong to any user.
    pub fn acquire_to_read(path: &Path) -> Result<Self> {
        let told = |e| Error::Internal(format!("opening {}: {e}", path.display()));
        let path = fs::canonicalize(path).map_err(told)?;
        let owner = path.join("owner.lock");
        if folder::look(&owner)?.is_none() {
            return Ok(Self { path, _owner: None });
        }
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let owner = OpenOptions::new().read(true).custom_flags(flags.bits()).open(owner);
        let owner = owner.map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => folder::not_for_us(&path),
            _ => told(e),
        })?;
        let owner = Some(lock(owner, &path)?);
        Ok(Self { path, _owner: owner })
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// LMDB's data file.
    pub fn data_file(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    /// Puts the file `new` of this folder, which is on disk, in the place of the data file, at once;
    /// what was there gets the name `keep` or goes, with a journal that has changes of it. Nobody may
    /// have the store open through us.
    pub fn replace(&self, new: &Path, keep: Option<&str>) -> Result<()> {
        let told = |doing: &'static str| {
            move |e: std::io::Error| {
                Error::Internal(format!("{doing} in {}: {e}", self.path.display()))
            }
        };
        // Whoever opens the store to read meanwhile has either both old files or both new ones;
        // who has it open already keeps the old ones.
        let _alone = enter(&self.path, FlockArg::LockExclusive)?;
        let data = self.data_file();
        if let Some(keep) = keep
            && data.exists()
        {
            std::fs::hard_link(&data, self.path.join(keep))
                .map_err(told("keeping the old file"))?;
        }
        // LMDB's lock file knows the number of the last transaction of its data file.
        remove(&self.path.join("lock.mdb")).map_err(told("removing lock.mdb"))?;
        std::fs::rename(new, &data).map_err(told("moving the new file into place"))?;
        self.sync()?;
        // It is about the old file, and what it says goes on top of that.
        let journal = self.path.join(journal::FILE);
        let gone = match keep {
            Some(keep) if !journal::salvage(&self.path)?.is_empty() => {
                let kept = keep.replace(DATA_FILE, journal::FILE);
                std::fs::rename(&journal, self.path.join(kept))
            }
            _ => remove(&journal),
        };
        gone.map_err(told("removing the journal"))?;
        self.sync()
    }

    /// Puts the entries of the folder, and the folder itself, on disk: a commit syncs the data
    /// file, but a file whose name is lost is lost too.
    pub fn sync(&self) -> Result<()> {
        for folder in [Some(self.path.as_path()), self.path.parent()].into_iter().flatten() {
            match File::open(folder).and_then(|f| f.sync_all()) {
                // The parent may be closed to us; then it was not us who made the folder.
                Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
                    return Err(Error::Internal(format!("syncing {}: {e}", folder.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Locks the file that stands for owning the folder at `path`.
fn lock(owner: File, path: &Path) -> Result<Flock<File>> {
    Flock::lock(owner, FlockArg::LockExclusiveNonblock).map_err(|(mut held, errno)| {
        if errno != Errno::EWOULDBLOCK {
            let e = std::io::Error::from(errno);
            return Error::Internal(format!("locking {}: {e}", path.display()));
        }
        let mut pid = String::new();
        // Only for the sentence: the owner may not have written its number yet.
        let _ = held.read_to_string(&mut pid);
        Error::failed_precondition(format_args!(
            "the store in {} is in use by another process ({})",
            path.display(),
            if pid.trim().is_empty() { "starting" } else { pid.trim() },
        ))
    })
}

fn remove(file: &Path) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The process that owns the folder, if one does, as the kernel lists it. To try the lock instead would
/// be in the way of a daemon that starts just then.
pub fn owner(folder: &Path) -> Option<u32> {
    let path = folder.join("owner.lock");
    let file = fs::metadata(&path).ok()?;
    locked_by(&file).or_else(|| noted(&path).filter(|process| has_open(*process, &file)))
}

/// The process that has locked the file, from the kernel's list of locks.
fn locked_by(file: &fs::Metadata) -> Option<u32> {
    let (major, minor) = (major(file.dev()), minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // As in "1: FLOCK  ADVISORY  WRITE 4711 08:01:123 0 EOF".
    let lock = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut owners = lock.filter_map(|words| match words.as_slice() {
        [_, "FLOCK", _, "WRITE", process, at, ..] if *at == place => process.parse().ok(),
        _ => None,
    });
    owners.next()
}

/// The process that has written its number into the lock file: the last owner.
fn noted(lock: &Path) -> Option<u32> {
    fs::read_to_string(lock).ok()?.trim().strip_prefix("pid ")?.parse().ok()
}

/// Whether that process has the file open, as an owner has and another only for a moment. On an overlay
/// and on btrfs the kernel's list has another device than the file.
fn has_open(process: u32, file: &fs::Metadata) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let same = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
    open.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(same))
}

/// Keeps the files of a folder from being replaced while it is held.
pub fn enter(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let told = |e: std::io::Error| Error::Internal(format!("opening {}: {e}", path.display()));
    let folder = File::open(path).map_err(told)?;
    Flock::lock(folder, how).map_err(|(_, errno)| told(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, Store};
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_owner_is_known_to_others() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()), None);
        let root = Root::acquire(dir.path()).unwrap();
        assert_eq!(owner(dir.path()), Some(std::process::id()));
        let path = dir.path().join("owner.lock");
        let file = fs::metadata(&path).unwrap();
        assert_eq!(noted(&path), Some(std::process::id()));
        assert!(has_open(std::process::id(), &file));
        drop(root);
        assert!(!has_open(std::process::id(), &file));
        assert_eq!(owner(dir.path()), None);
    }

    #[test]
    fn every_file_of_a_store_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let modes = || {
            let _store = Store::open(&root).unwrap();
            let files = fs::read_dir(&root).unwrap().map(|f| f.unwrap());
            let mode = |f: fs::DirEntry| f.metadata().unwrap().permissions().mode() & 0o777;
            files.map(mode).collect::<Vec<_>>()
        };
        assert_eq!(modes(), [0o600; 4]);
        for file in fs::read_dir(&root).unwrap() {
            fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert_eq!(modes(), [0o600; 4]);
    }

    #[test]
    fn no_link_in_the_folder_is_followed() {
        for name in ["owner.lock", DATA_FILE, "lock.mdb", journal::FILE] {
            for target in ["somewhere", "nowhere"] {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("root");
                drop(Store::open(&root).unwrap());
                fs::rename(root.join(name), dir.path().join("somewhere")).unwrap();
                let before = fs::read(dir.path().join("somewhere")).unwrap();
                symlink(dir.path().join(target), root.join(name)).unwrap();
                let refused = Store::open(&root).unwrap_err();
                let why = format!("{name} is a symbolic link");
                assert!(refused.message().contains(&why), "{refused}");
                if name != "owner.lock" {
                    let refused = Reader::open(&root).unwrap_err();
                    assert!(refused.message().contains(&why), "{refused}");
                }
                assert_eq!(fs::read(dir.path().join("somewhere")).unwrap(), before);
                assert!(!dir.path().join("nowhere").exists());
            }
        }
    }
}
