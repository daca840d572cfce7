//! Disk space: distinguishes a full disk from a failing one, and allocates blocks before LMDB maps a file.
//!
//! If the disk is full, a write to a mapped page without a block on the disk ends the process by SIGBUS. So a
//! file that LMDB writes through its map gets all its blocks before it is mapped.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::libc::off_t;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::model::Error;

/// A file system with less free space than this counts as full.
const MIN_FREE_BYTES: u64 = 1 << 20;

/// `st_blocks` counts units of this size on Linux.
const BLOCK_BYTES: u64 = 512;

/// Whether a call failed because the file system, or a quota on it, is full, or because a file has reached the
/// limit of the process (`ulimit -f`).
pub(crate) fn is_full_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Whether a folder's file system, or a quota on it, is almost full, or a file in the folder has reached the limit
/// of the process. LMDB reports every incomplete write as EIO, whatever its cause.
pub(crate) fn is_full(folder: &Path) -> bool {
    let free = nix::sys::statvfs::statvfs(folder)
        .map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
    free.is_ok_and(|free| free < MIN_FREE_BYTES)
        || try_to_allocate(folder).is_err_and(|e| is_full_error(&e))
        || has_file_of_limit(folder).unwrap_or(false)
}

/// Whether a file of a folder has reached the limit of the process.
fn has_file_of_limit(folder: &Path) -> io::Result<bool> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if limit == RLIM_INFINITY {
        return Ok(false);
    }
    for file in folder.read_dir()? {
        if file?.metadata()?.len() >= limit {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds to a failure of LMDB that the disk is full, if it is.
pub(crate) fn explain(folder: &Path, error: Error) -> Error {
    match error {
        Error::Internal(why) if is_full(folder) => {
            Error::ResourceExhausted(format!("{why}; the disk is full: make room and try again"))
        }
        other => other,
    }
}

/// A full quota is visible only when blocks are allocated. The file has no name, and is removed when it is closed.
fn try_to_allocate(folder: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
    allocate(&options.open(folder)?, MIN_FREE_BYTES)
}

/// Allocates blocks on the disk for the first `length` bytes of a file. Bytes beyond its end become zeros.
pub(crate) fn allocate(file: &File, length: u64) -> io::Result<()> {
    let end = off_t::try_from(length).map_err(|_| Errno::EFBIG)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, end) {
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return extend_with_zeros(file, length),
            allocated => return Ok(allocated?),
        }
    }
}

/// Extends the file on a file system that cannot allocate blocks. Existing holes stay holes.
fn extend_with_zeros(mut file: &File, length: u64) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    io::copy(&mut io::Read::take(io::repeat(0), length.saturating_sub(end)), &mut file)?;
    file.flush()
}

/// Whether all of a file has blocks on the disk.
pub(crate) fn is_allocated(file: &std::fs::Metadata) -> bool {
    file.blocks().saturating_mul(BLOCK_BYTES) >= file.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_quota_is_a_full_disk() {
        for (errno, is_full) in [
            (Errno::ENOSPC, true),
            (Errno::EDQUOT, true),
            (Errno::EFBIG, true),
            (Errno::EIO, false),
        ] {
            assert_eq!(is_full_error(&errno.into()), is_full, "{errno}");
        }
    }

    #[test]
    fn an_allocated_file_has_its_length_and_its_blocks_and_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "content").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let length = 100_000;
        file.set_len(length).unwrap();
        assert!(!is_allocated(&file.metadata().unwrap()));
        allocate(&file, length).unwrap();
        assert!(is_allocated(&file.metadata().unwrap()));
        extend_with_zeros(&file, length + 5000).unwrap();
        let found = std::fs::read(&path).unwrap();
        assert_eq!((found.len(), found.starts_with(b"content\0")), (105_000, true));
    }

    #[test]
    fn a_folder_with_room_is_not_full() {
        let dir = tempfile::tempdir().unwrap();
        try_to_allocate(dir.path()).unwrap();
        assert!(!is_full(dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
