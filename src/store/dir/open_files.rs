//! Checks whether the open files of a daemon are still those at their paths.
//!
//! If the folder is removed, renamed or mounted over while the daemon runs, the open files go with it. Later
//! writes would be lost with them, and a second daemon could start at the path.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{Error, Result};

/// The identity of a file while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl From<Metadata> for FileId {
    fn from(found: Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

impl FileId {
    /// The id of the file or folder at a path. Follows links.
    pub(crate) fn from_path(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(Self::from)
    }
}

/// The paths of a store, and the file that is open for each.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    root: PathBuf,
    files: Vec<(PathBuf, FileId)>,
    /// Whether the last check failed: it is logged once.
    has_failed: AtomicBool,
}

impl OpenFiles {
    /// The folder `root`, with the open files.
    pub(crate) fn new(root: PathBuf, files: Vec<(PathBuf, FileId)>) -> Self {
        Self { root, files, has_failed: AtomicBool::new(false) }
    }

    /// Returns an error, with instructions, if a path has another file or none, or if this cannot be checked.
    /// Logs the first error, and the first success after it.
    pub(crate) fn check(&self) -> Result<()> {
        let found = self.files.iter().find_map(|(path, id)| Some((path, difference(path, *id)?)));
        let had_failed = self.has_failed.swap(found.is_some(), Ordering::Relaxed);
        let Some((path, difference)) = found else {
            if had_failed {
                log::info!("the files of the store are at {} again", self.root.display());
            }
            return Ok(());
        };
        let why = format!(
            "the store's files are no longer those in {}: {} {difference}; nothing is written, reads \
             go on from the files that are open; put the folder back, or save the names that are \
             still served and restart the daemon",
            self.root.display(),
            path.display()
        );
        if !had_failed {
            log::error!("{why}");
        }
        Err(Error::Unavailable(why))
    }
}

fn difference(path: &Path, expected: FileId) -> Option<String> {
    match FileId::from_path(path) {
        Ok(found) if found == expected => None,
        Ok(_) => Some("was replaced".into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some("was removed".into()),
        Err(e) => Some(format!("cannot be looked at: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_or_replaced_is_found_and_one_put_back_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("f"), dir.path().join("away"));
        fs::write(&path, "").unwrap();
        let id = FileId::from_path(&path).unwrap();
        let files = OpenFiles::new(dir.path().to_owned(), vec![(path.clone(), id)]);
        files.check().unwrap();
        fs::rename(&path, &away).unwrap();
        assert!(files.check().unwrap_err().message().contains("f was removed"));
        fs::write(&path, "").unwrap();
        assert!(files.check().unwrap_err().message().contains("f was replaced"));
        fs::rename(&away, &path).unwrap();
        files.check().unwrap();
    }
}
