//! The folder of a store: created closed to others, owned by one process at a time, synced.
//!
//! The owner holds a `flock` on `owner.lock`, which the kernel releases when the process ends. LMDB's
//! own `lock.mdb` coordinates readers and does not show an owner.

use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, LOCK_FILE, OWNER_FILE, STORE_ID_FILE};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::model::{Context, Error, Result};
use crate::store::dir::lock_file;
use crate::store::dir::lock_file::{LockError, LockFile};
use crate::store::dir::open_files::{FileId, OpenFiles};
use crate::store::dir::{files, filesystem, permissions, scratch, store_id};

/// The folder of a store, locked by this process until the value is dropped.
#[derive(Debug)]
pub(crate) struct StoreDir {
    path: PathBuf,
    /// The caller's path, absolute; it may contain links.
    given: PathBuf,
    /// `None` on a read-only file system if no process ever owned the folder.
    owner: Option<LockFile>,
}

impl StoreDir {
    /// Creates the folder (mode 0700) if it is missing, and locks it.
    ///
    /// # Errors
    /// If other users may change the folder, if it is on a network file system, if a link replaces one of
    /// its files, or if another process owns it.
    pub(crate) fn lock(path: &Path) -> Result<Self> {
        let given =
            std::path::absolute(path).or_internal(format_args!("the folder {}", path.display()))?;
        let path = permissions::create_private(path, 0o700)?;
        filesystem::check(&path)?;
        for file in [OWNER_FILE, DATA_FILE, LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE] {
            permissions::tighten(&path.join(file))?;
        }
        let owner = LockFile::acquire(&path.join(OWNER_FILE)).map_err(|e| not_locked(&path, e))?;
        scratch::remove_abandoned(&path);
        Ok(Self { path, given, owner: Some(owner) })
    }

    /// Locks a folder to read its files, and changes nothing in it. The folder may be on a read-only file
    /// system and belong to any user.
    pub(crate) fn acquire_to_read(path: &Path) -> Result<Self> {
        let given =
            std::path::absolute(path).or_internal(format_args!("opening {}", path.display()))?;
        let path =
            fs::canonicalize(path).or_internal(format_args!("opening {}", path.display()))?;
        let owner = path.join(OWNER_FILE);
        let owner = match permissions::stat_regular(&owner)? {
            Some(_) => Some(LockFile::lock(&owner).map_err(|e| not_locked(&path, e))?),
            None => None,
        };
        Ok(Self { path, given, owner })
    }

    /// The files that this process has open in the folder: the lock, and the files that no other process
    /// replaces while the lock is held. They are looked up by the caller's path.
    pub(crate) fn open_files(&self) -> Result<OpenFiles> {
        let doing = format!("looking at the files in {}", self.given.display());
        let mut files =
            vec![(self.given.clone(), FileId::from_path(&self.path).or_internal(&doing)?)];
        if let Some(owner) = &self.owner {
            files.push((self.given.join(OWNER_FILE), owner.metadata().or_internal(&doing)?.into()));
        }
        for name in [DATA_FILE, JOURNAL_FILE] {
            if let Some(found) = permissions::stat_regular(&self.path.join(name))? {
                files.push((self.given.join(name), found.into()));
            }
        }
        Ok(OpenFiles::new(self.given.clone(), files))
    }

    /// The folder, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// LMDB's data file.
    pub(crate) fn data_file(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    /// Atomically replaces the data file by `new`, a synced file of this folder. The old file, and its
    /// journal, are renamed to `keep`, or deleted if `keep` is `None`. This process must not have the store
    /// open.
    pub(crate) fn replace(&self, new: &Path, keep: Option<&str>) -> Result<()> {
        // A reader that opens the store meanwhile gets both old files or both new files; a reader that
        // has the store open keeps the old files.
        let _exclusive = lock_files(&self.path, FlockArg::LockExclusive)?;
        let data = self.data_file();
        if let Some(keep) = keep
            && permissions::exists(&data)?
        {
            std::fs::hard_link(&data, self.path.join(keep))
                .or_internal(format_args!("keeping the old file in {}", self.path.display()))?;
        }
        // The new file's own identity is written when it is opened.
        store_id::remove(&self.path)?;
        // `lock.mdb` holds the id of the last transaction of the old data file.
        files::remove(&self.path.join(LOCK_FILE))
            .or_internal(format_args!("removing lock.mdb in {}", self.path.display()))?;
        self.sync()?;
        std::fs::rename(new, &data).or_internal(format_args!(
            "moving the new file into place in {}",
            self.path.display()
        ))?;
        self.sync()?;
        // The new data file needs no journal, and the old journal does not belong to it.
        let journal = self.path.join(JOURNAL_FILE);
        let gone = match keep {
            Some(keep) if permissions::stat_regular(&journal)?.is_some() => {
                std::fs::rename(&journal, self.path.join(keep.replace(DATA_FILE, JOURNAL_FILE)))
            }
            _ => files::remove(&journal),
        };
        gone.or_internal(format_args!("removing the journal in {}", self.path.display()))?;
        self.sync()
    }

    /// Syncs the folder and its parent: a commit syncs the data file, but not the directory entry that
    /// names it.
    pub(crate) fn sync(&self) -> Result<()> {
        for folder in [Some(self.path.as_path()), self.path.parent()].into_iter().flatten() {
            match File::open(folder).and_then(|f| f.sync_all()) {
                // If this process may not open the parent, it has not created the folder there.
                Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
                    return Err(Error::Internal(format!("syncing {}: {e}", folder.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The [reason](Error::reason) of the error about a store that another process has locked.
pub(crate) const IN_USE: &str = "STORE_IN_USE";

/// The error about a folder that could not be locked.
fn not_locked(path: &Path, error: LockError) -> Error {
    match error {
        LockError::Held(holder) => {
            let why = format_args!(
                "the store in {} is in use by another process ({})",
                path.display(),
                lock_file::describe(holder),
            );
            Error::failed_precondition(why).with_reason(IN_USE, Vec::new())
        }
        LockError::Io(_, e) if e.kind() == ErrorKind::PermissionDenied => {
            permissions::permission_error(path)
        }
        LockError::Io(doing, e) => {
            Error::Internal(format!("{doing} {OWNER_FILE} in {}: {e}", path.display()))
        }
    }
}

/// The id of the process that owns the folder.
pub(crate) fn owner(folder: &Path) -> Option<u32> {
    lock_file::holder(&folder.join(OWNER_FILE))
}

/// Locks the files of a folder against [`StoreDir::replace`] until the value is dropped.
pub(crate) fn lock_files(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let opening = format!("opening {}", path.display());
    let folder = File::open(path).or_internal(&opening)?;
    Flock::lock(folder, how).map_err(|(_, errno)| std::io::Error::from(errno)).or_internal(&opening)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ReadOnlyStore, Store};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_owner_is_known_to_others() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()), None);
        let root = StoreDir::lock(dir.path()).unwrap();
        assert_eq!(owner(dir.path()), Some(std::process::id()));
        drop(root);
        assert_eq!(owner(dir.path()), None);
    }

    #[test]
    fn a_new_owner_removes_what_a_killed_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{}left", scratch::PREFIX));
        fs::create_dir(&left).unwrap();
        let _root = StoreDir::lock(dir.path()).unwrap();
        assert!(!left.exists());
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
        assert_eq!(modes(), [0o600; 5]);
        for file in fs::read_dir(&root).unwrap() {
            fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert_eq!(modes(), [0o600; 5]);
    }

    #[test]
    fn no_link_in_the_folder_is_followed() {
        for name in ["owner.lock", DATA_FILE, "lock.mdb", JOURNAL_FILE, STORE_ID_FILE] {
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
                    let refused = ReadOnlyStore::open(&root).unwrap_err();
                    assert!(refused.message().contains(&why), "{refused}");
                }
                assert_eq!(fs::read(dir.path().join("somewhere")).unwrap(), before);
                assert!(!dir.path().join("nowhere").exists());
            }
        }
    }
}
