//! Opens a bbolt file by its path, while another process may write it.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::{LiveError, LiveReader};

/// A bbolt file that another process may write at the same time. It dereferences to a [`LiveReader`].
#[derive(Debug)]
pub struct LiveFile {
    path: PathBuf,
    reader: LiveReader<File>,
}

impl LiveFile {
    /// Opens the file read-only and reads its page size. Takes no lock. If the last component of the path
    /// is a symbolic link, the open fails.
    ///
    /// # Errors
    /// [`LiveError::Open`], [`LiveError::NotRegular`], or [`LiveError::Damaged`] if neither meta page is
    /// valid. No meta page is valid in a file that is not bbolt's.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LiveError> {
        let path = path.into();
        // Without NONBLOCK, opening a named pipe would wait until another process opens it to write.
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

    /// See [`LiveReader::with_max_time`].
    #[must_use]
    pub fn with_max_time(self, max_time: Duration) -> Self {
        Self { reader: self.reader.with_max_time(max_time), ..self }
    }

    /// The path that was given to [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the path still leads to the opened file. A restore or a compaction puts another
    /// file at the path; this reader then still reads the old file.
    ///
    /// # Errors
    /// If `lstat(2)` fails. A path that does not exist is no error: the result is false.
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

    /// The type of the file system, as `statfs(2)` gives it in `f_type`. On a network file system or a
    /// FUSE file system, a read may miss what another process has written. So a live read is not exact
    /// there.
    ///
    /// # Errors
    /// If `fstatfs(2)` fails.
    pub fn file_system_type(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatfs(self.reader.source())?;
        // The kernel's type numbers have 32 bits, but some C libraries sign-extend them to 64.
        Ok(found.f_type as u64 & 0xffff_ffff)
    }
}

impl Deref for LiveFile {
    type Target = LiveReader<File>;

    fn deref(&self) -> &LiveReader<File> {
        &self.reader
    }
}
