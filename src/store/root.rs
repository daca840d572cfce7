//! The folder of a store: created closed to others, owned by one process at a time, synced.
//!
//! Owning is a `flock` on `owner.lock`, which ends with the process however it ends. LMDB's own
//! `lock.mdb` coordinates readers and is no sign of an owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::model::{Error, Result};

/// An owned folder. Dropping it gives it up.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    _owner: Flock<File>,
}

impl Root {
    /// Creates the folder if need be (mode 0700) and becomes its owner.
    pub fn acquire(path: &Path) -> Result<Self> {
        let told = |doing: &str| {
            let at = path.display().to_string();
            let doing = doing.to_owned();
            move |e: std::io::Error| Error::Internal(format!("{doing} {at}: {e}"))
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(told("creating the root"))?;
        let path = fs::canonicalize(path).map_err(told("opening the root"))?;
        let owner = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("owner.lock"))
            .map_err(told("opening owner.lock in"))?;
        let mut owner = match Flock::lock(owner, FlockArg::LockExclusiveNonblock) {
            Ok(owner) => owner,
            Err((mut held, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Only for the sentence: the owner may not have written its number yet.
                let _ = held.read_to_string(&mut pid);
                return Err(Error::failed_precondition(format_args!(
                    "the store in {} is in use by another process ({})",
                    path.display(),
                    if pid.trim().is_empty() { "starting" } else { pid.trim() },
                )));
            }
            Err((_, errno)) => return Err(told("locking")(errno.into())),
        };
        let note = |owner: &mut File| {
            owner.set_len(0)?;
            owner.rewind()?;
            writeln!(owner, "pid {}", std::process::id())
        };
        note(&mut owner).map_err(told("writing owner.lock in"))?;
        Ok(Self { path, _owner: owner })
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// LMDB's data file.
    pub fn data_file(&self) -> PathBuf {
        self.path.join("data.mdb")
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
