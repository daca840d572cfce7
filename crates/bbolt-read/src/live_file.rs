//! A live file by its path.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::{LiveError, LiveReader};

/// A file that another process may write while it is read, by its path. It is a [`LiveReader`].
#[derive(Debug)]
pub struct LiveFile {
    path: PathBuf,
    reader: LiveReader<File>,
}

impl LiveFile {
    /// Opens the file to read it, and reads its page size. It takes no lock. A symbolic link at the
    /// end of the path is not followed.
    ///
    /// # Errors
    /// [`LiveError::Open`], [`LiveError::NotRegular`], or [`LiveError::Damaged`] when neither meta
    /// page is whole, as in a file that is not bbolt's.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LiveError> {
        let path = path.into();
        // Without NONBLOCK the opening of a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let file = File::from(opened.map_err(|e| LiveError::Open(e.into()))?);
        if !file.metadata().map_err(LiveError::Open)?.is_file() {
            return Err(LiveError::NotRegular);
        }
        Ok(Self { path, reader: LiveReader::new(file)? })
    }

    /// See [`LiveReader::with_max_tries`].
    #[must_use]
    pub fn with_max_tries(self, max_tries: u32) -> Self {
        Self { reader: self.reader.with_max_tries(max_tries), ..self }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the file that was opened. After a restore or a compaction
    /// it leads to another one, and what is read here is the past.
    ///
    /// # Errors
    /// The path cannot be looked at, by another reason than that nothing is there.
    pub fn is_current_path(&self) -> io::Result<bool> {
        let ours = self.reader.source().metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// The number by which `statfs(2)` names the file system (`f_type`). On one that is shared over
    /// a network, or that a user's process serves (FUSE), a read need not see what another process
    /// has written, and no live read is exact there.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn file_system_type(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatfs(self.reader.source())?;
        // The kernel's numbers have 32 bits; some C libraries extend their sign.
        Ok(found.f_type as u64 & 0xffff_ffff)
    }
}

impl Deref for LiveFile {
    type Target = LiveReader<File>;

    fn deref(&self) -> &LiveReader<File> {
        &self.reader
    }
}
