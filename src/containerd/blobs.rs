//! The files of containerd's finished blobs.
//!
//! A blob never changes, so an open file stays right even if containerd deletes it meanwhile. The file does not
//! say which namespaces have the blob: [`super::database`] does.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most open files of blobs, of all clients. containerd answers a Read beyond them.
pub(crate) const MAX_OPEN_BLOBS: usize = 256;

/// The most reads that wait for a disk. Each takes a thread.
const MAX_DISK_READS: usize = 8;

/// The folder of a containerd's blobs.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    handles: Arc<Semaphore>,
    disk_reads: Arc<Semaphore>,
}

/// An open blob.
#[derive(Debug)]
pub(crate) struct BlobFile {
    file: File,
    disk_reads: Arc<Semaphore>,
    _handle: OwnedSemaphorePermit,
}

/// The file of a blob in the folder `blobs` of a content store. `None` if `digest` has no colon.
pub(crate) fn blob_path(folder: &Path, digest: &str) -> Option<PathBuf> {
    let (algorithm, hex) = digest.split_once(':')?;
    Some(folder.join(algorithm).join(hex))
}

impl Blobs {
    /// The blobs of a content store in the folder `root`.
    pub(crate) fn new(root: &Path) -> Self {
        let handles = Arc::new(Semaphore::new(MAX_OPEN_BLOBS));
        let disk_reads = Arc::new(Semaphore::new(MAX_DISK_READS));
        Self { folder: root.join("blobs"), handles, disk_reads }
    }

    /// The folder `blobs`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens the blob of a valid digest. Returns `None` if the file is no regular file of `size` bytes, or if
    /// too many files are open.
    pub(crate) fn open(&self, digest: &str, size: u64) -> Option<BlobFile> {
        let handle = Arc::clone(&self.handles).try_acquire_owned().ok()?;
        let path = blob_path(&self.folder, digest)?;
        // Without NONBLOCK, opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        let found = file.metadata().ok()?;
        let disk_reads = Arc::clone(&self.disk_reads);
        let blob = BlobFile { file, disk_reads, _handle: handle };
        (found.is_file() && found.size() == size).then_some(blob)
    }
}

impl BlobFile {
    /// Fills `buffer` with the bytes from `offset` on, if the kernel has the first of them in memory:
    /// this does not wait for a disk. Returns the number of bytes, or `None` if it would have to wait.
    ///
    /// # Errors
    /// If the file cannot be read or is too short.
    pub(crate) fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut buffers = [io::IoSliceMut::new(buffer)];
        match preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            // Some file systems do not support NOWAIT; qemu, and some sandboxes, have no preadv2.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Fills `buffer` from `start` on with the bytes from `offset` on, on another thread.
    ///
    /// # Errors
    /// If the file cannot be read or is too short.
    pub(crate) async fn read_on_disk(
        self: Arc<Self>,
        mut buffer: Vec<u8>,
        start: usize,
        offset: u64,
    ) -> io::Result<Vec<u8>> {
        // The semaphore is never closed.
        let _permit = Arc::clone(&self.disk_reads).acquire_owned().await;
        let read = move || {
            self.file.read_exact_at(buffer.get_mut(start..).unwrap_or_default(), offset)?;
            Ok(buffer)
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn blobs() -> (tempfile::TempDir, Blobs, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(DIGEST.split_once(':').unwrap().1);
        let blobs = Blobs::new(dir.path());
        (dir, blobs, path)
    }

    async fn read(blob: &Arc<BlobFile>, offset: u64) -> Option<Vec<u8>> {
        Arc::clone(blob).read_on_disk(vec![0; 2], 0, offset).await.ok()
    }

    #[tokio::test]
    async fn a_blob_is_a_regular_file_of_the_size_that_is_known() {
        let (dir, blobs, path) = blobs();
        assert!(blobs.open(DIGEST, 3).is_none(), "it is missing");
        std::fs::write(&path, "abc").unwrap();
        let blob = Arc::new(blobs.open(DIGEST, 3).unwrap());
        assert_eq!(read(&blob, 1).await.unwrap(), b"bc");
        assert_eq!(read(&blob, 2).await, None, "it ends before");
        let mut two = [0; 2];
        assert!(matches!(blob.read_cached(&mut two, 0), Ok(None | Some(2))));
        assert!(!matches!(blob.read_cached(&mut two, 3), Ok(Some(_))), "it ends before");
        assert!(blobs.open(DIGEST, 2).is_none(), "it is longer");
        assert!(blobs.open(DIGEST, 4).is_none(), "it is shorter");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&blob, 1).await.unwrap(), b"bc", "it was open before");
        std::fs::write(dir.path().join("elsewhere"), "abc").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(blobs.open(DIGEST, 3).is_none(), "it is a symbolic link");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(blobs.open(DIGEST, std::fs::metadata(&path).unwrap().len()).is_none());
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(blobs.open(DIGEST, 0).is_none(), "it is a named pipe");
    }

    /// A thread for which preadv2 fails so, as under qemu, in some sandboxes and on some file systems.
    fn without_preadv2(errno: Errno, work: impl FnOnce() + Send) {
        use seccompiler::{SeccompAction, SeccompFilter};
        let number = nix::libc::SYS_preadv2;
        let action = SeccompAction::Errno(errno.raw_os_error() as u32);
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let rules = [(number, vec![])].into();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture);
        let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                seccompiler::apply_filter(&program).unwrap();
                work();
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_kernel_without_a_read_that_does_not_wait_reads_on_another_thread() {
        let (_dir, blobs, path) = blobs();
        std::fs::write(&path, "abc").unwrap();
        for errno in [Errno::NOSYS, Errno::OPNOTSUPP, Errno::AGAIN] {
            let blob = Arc::new(blobs.open(DIGEST, 3).unwrap());
            without_preadv2(errno, || {
                assert_eq!(blob.read_cached(&mut [0; 2], 1).unwrap(), None, "{errno}");
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                assert_eq!(runtime.block_on(read(&blob, 1)).unwrap(), b"bc", "{errno}");
            });
        }
        let blob = blobs.open(DIGEST, 3).unwrap();
        without_preadv2(Errno::IO, || {
            assert!(blob.read_cached(&mut [0; 2], 1).is_err(), "the disk fails");
        });
    }

    #[test]
    fn a_bounded_number_of_blobs_is_open() {
        let (_dir, blobs, path) = blobs();
        std::fs::write(&path, "abc").unwrap();
        let mut open: Vec<_> =
            (0..MAX_OPEN_BLOBS).map(|_| blobs.open(DIGEST, 3).unwrap()).collect();
        assert!(blobs.open(DIGEST, 3).is_none());
        open.pop();
        assert!(blobs.open(DIGEST, 3).is_some());
    }
}
