//! The folder of a store: created closed to others, owned by one process at a time, synced.
//!
//! Owning is a `flock` on `owner.lock`, which ends with the process however it ends. LMDB's own
//! `lock.mdb` coordinates readers and is no sign of an owner.

use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, LOCK_FILE, OWNER_FILE, STORE_ID_FILE};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::model::{Error, Result};
use crate::store::dir::lock_file;
use crate::store::dir::lock_file::{LockError, LockFile};
use crate::store::dir::open_files::{FileId, OpenFiles};
use crate::store::dir::{files, filesystem, permissions, scratch, store_id};

/// An owned folder. Dropping it gives it up.
#[derive(Debug)]
pub struct StoreDir {
    path: PathBuf,
    /// As the caller named it, absolute: it may lead through links.
    given: PathBuf,
    /// Missing where nothing can be written, so that no process ever owned the folder.
    owner: Option<LockFile>,
}

impl StoreDir {
    /// Creates the folder if need be (mode 0700) and becomes its owner. Refuses one that others may
    /// change, that lies on another machine, or in which a link stands in the place of a file.
    pub fn lock(path: &Path) -> Result<Self> {
        let given = std::path::absolute(path)
            .map_err(|e| Error::Internal(format!("the folder {}: {e}", path.display())))?;
        let path = permissions::create_private(path, 0o700)?;
        filesystem::check(&path)?;
        for file in [OWNER_FILE, DATA_FILE, LOCK_FILE, JOURNAL_FILE, STORE_ID_FILE] {
            permissions::tighten(&path.join(file))?;
        }
        let owner = LockFile::acquire(&path.join(OWNER_FILE)).map_err(|e| not_locked(&path, e))?;
        scratch::remove_abandoned(&path);
        Ok(Self { path, given, owner: Some(owner) })
    }

    /// Becomes the owner of a folder in order to read its files, and changes nothing in it: it may lie on
    /// a read-only file system, and belong to any user.
    pub fn acquire_to_read(path: &Path) -> Result<Self> {
        let told = |e| Error::Internal(format!("opening {}: {e}", path.display()));
        let given = std::path::absolute(path).map_err(told)?;
        let path = fs::canonicalize(path).map_err(told)?;
        let owner = path.join(OWNER_FILE);
        let owner = match permissions::stat_regular(&owner)? {
            Some(_) => Some(LockFile::lock(&owner).map_err(|e| not_locked(&path, e))?),
            None => None,
        };
        Ok(Self { path, given, owner })
    }

    /// What this process has open in the folder: the lock, and the files that are there now and that
    /// no other process replaces while it is held. The folder is looked at by the path that was given.
    pub fn open_files(&self) -> Result<OpenFiles> {
        let told =
            |e| Error::Internal(format!("looking at the files in {}: {e}", self.given.display()));
        let mut files = vec![(self.given.clone(), FileId::of(&self.path).map_err(told)?)];
        if let Some(owner) = &self.owner {
            files.push((self.given.join(OWNER_FILE), owner.metadata().map_err(told)?.into()));
        }
        for name in [DATA_FILE, JOURNAL_FILE] {
            if let Some(found) = permissions::stat_regular(&self.path.join(name))? {
                files.push((self.given.join(name), found.into()));
            }
        }
        Ok(OpenFiles::new(self.given.clone(), files))
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
        let _alone = lock_files(&self.path, FlockArg::LockExclusive)?;
        let data = self.data_file();
        if let Some(keep) = keep
            && permissions::exists(&data)?
        {
            std::fs::hard_link(&data, self.path.join(keep))
                .map_err(told("keeping the old file"))?;
        }
        // The new file's own identity is written when it is opened.
        store_id::remove(&self.path)?;
        // LMDB's lock file knows the number of the last transaction of its data file.
        files::remove(&self.path.join(LOCK_FILE)).map_err(told("removing lock.mdb"))?;
        self.sync()?;
        std::fs::rename(new, &data).map_err(told("moving the new file into place"))?;
        self.sync()?;
        // The old file's journal: the new one needs none, and does not fit it.
        let journal = self.path.join(JOURNAL_FILE);
        let gone = match keep {
            Some(keep) if permissions::stat_regular(&journal)?.is_some() => {
                std::fs::rename(&journal, self.path.join(keep.replace(DATA_FILE, JOURNAL_FILE)))
            }
            _ => files::remove(&journal),
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

/// The error about a folder that could not be locked.
fn not_locked(path: &Path, error: LockError) -> Error {
    match error {
        LockError::Held(holder) => Error::failed_precondition(format_args!(
            "the store in {} is in use by another process ({})",
            path.display(),
            lock_file::describe(holder),
        )),
        LockError::Io(_, e) if e.kind() == ErrorKind::PermissionDenied => {
            permissions::permission_error(path)
        }
        LockError::Io(doing, e) => {
            Error::Internal(format!("{doing} {OWNER_FILE} in {}: {e}", path.display()))
        }
    }
}

/// The process that owns the folder, if one does.
pub fn owner(folder: &Path) -> Option<u32> {
    lock_file::holder(&folder.join(OWNER_FILE))
}

/// Keeps the files of a folder from being replaced while it is held.
pub fn lock_files(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let told = |e: std::io::Error| Error::Internal(format!("opening {}: {e}", path.display()));
    let folder = File::open(path).map_err(told)?;
    Flock::lock(folder, how).map_err(|(_, errno)| told(errno.into()))
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
