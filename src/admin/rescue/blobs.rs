//! The blobs in a content folder of containerd, as files: `blobs/<algorithm>/<hex digits>`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::admin::file;
use crate::containerd::blobs::blob_path;
use crate::model::{Error, Result, digest};

/// The most bytes of a manifest or an index. Registries accept 4 MiB.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 8 << 20;

/// The bytes of one read while a blob is hashed.
const HASH_BUFFER_BYTES: usize = 256 << 10;

/// The fault of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlobFault {
    /// The file is missing.
    Missing,
    /// The file has another length.
    Size {
        /// The bytes of the file.
        found: u64,
        /// The bytes that the descriptor says.
        wanted: i64,
    },
    /// The file has other content.
    Hash,
    /// The blob cannot be taken up for this reason.
    Other(String),
}

impl fmt::Display for BlobFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Size { found, wanted } => {
                write!(f, "is damaged: {found} bytes instead of {wanted}")
            }
            Self::Hash => f.write_str("is damaged: its content does not have this digest"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// A folder with the blobs.
#[derive(Debug)]
pub(crate) struct BlobFolder {
    folder: PathBuf,
    /// Damaged blobs, by digest.
    damaged: BTreeMap<String, BlobFault>,
}

impl BlobFolder {
    /// The blobs of a content folder: `<folder>/blobs`.
    ///
    /// # Errors
    /// `FailedPrecondition` if this process cannot see the folder.
    pub(crate) fn of_content(folder: &Path) -> Result<Self> {
        let folder = folder.join("blobs");
        match folder.metadata() {
            Ok(found) if found.is_dir() => Ok(Self { folder, damaged: BTreeMap::new() }),
            Ok(_) => Err(unseen(&folder, "it is no folder")),
            Err(e) => Err(unseen(&folder, &e.to_string())),
        }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds damaged blobs, which [`check`](Self::check) then refuses.
    pub(crate) fn note_damaged(&mut self, damaged: BTreeMap<String, BlobFault>) {
        self.damaged.extend(damaged);
    }

    /// The file of a blob. A valid digest is always a path of two parts.
    pub(crate) fn path(&self, digest: &str) -> Option<PathBuf> {
        digest::validate(digest).ok()?;
        blob_path(&self.folder, digest)
    }

    /// Checks that the blob has a file of this length, and is not among the damaged ones.
    pub(crate) fn check(&self, digest: &str, size: i64) -> Result<(), BlobFault> {
        if let Some(fault) = self.damaged.get(digest) {
            return Err(fault.clone());
        }
        let path = self.path(digest).ok_or_else(|| BlobFault::Other("is no digest".into()))?;
        let found = match path.symlink_metadata() {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) => return Err(BlobFault::Other("is no regular file".into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(BlobFault::Missing),
            Err(e) => return Err(BlobFault::Other(format!("cannot be read: {e}"))),
        };
        match i64::try_from(found) {
            Ok(found) if found == size => Ok(()),
            _ => Err(BlobFault::Size { found, wanted: size }),
        }
    }

    /// Reads a manifest or an index, and checks its hash.
    pub(crate) fn read(&self, digest: &str, size: i64) -> Result<Vec<u8>, BlobFault> {
        self.check(digest, size)?;
        let length = u64::try_from(size).unwrap_or(u64::MAX);
        if length > MAX_MANIFEST_BYTES {
            let what = format!("has {size} bytes, and a manifest {MAX_MANIFEST_BYTES} at most");
            return Err(BlobFault::Other(what));
        }
        let path = self.path(digest).ok_or_else(|| BlobFault::Other("is no digest".into()))?;
        let unread = |e: &dyn fmt::Display| BlobFault::Other(format!("cannot be read: {e}"));
        let file = file::open_to_read(&path).map_err(|e| unread(&e))?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).map_err(|e| unread(&e))?;
        let mut hasher =
            Hasher::new(digest).ok_or_else(|| BlobFault::Other("is no digest".into()))?;
        hasher.write_all(&bytes).map_err(|e| unread(&e))?;
        if hasher.hex() == encoded(digest) { Ok(bytes) } else { Err(BlobFault::Hash) }
    }

    /// Reads the whole blob and compares its hash. `read` is called with the bytes of each read.
    pub(crate) fn verify(&self, digest: &str, mut read: impl FnMut(u64)) -> Result<(), BlobFault> {
        let other = || BlobFault::Other("is no digest".into());
        let path = self.path(digest).ok_or_else(other)?;
        let mut hasher = Hasher::new(digest).ok_or_else(other)?;
        let unread = |e: &dyn fmt::Display| BlobFault::Other(format!("cannot be read: {e}"));
        let mut file = match file::open_to_read(&path) {
            Err(Error::NotFound(_)) => return Err(BlobFault::Missing),
            opened => opened.map_err(|e| unread(&e))?,
        };
        let mut buffer = vec![0; HASH_BUFFER_BYTES];
        loop {
            let count = file.read(&mut buffer).map_err(|e| unread(&e))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.write_all(bytes).map_err(|e| unread(&e))?;
            read(count as u64);
        }
        if hasher.hex() == encoded(digest) { Ok(()) } else { Err(BlobFault::Hash) }
    }
}

fn unseen(folder: &Path, why: &str) -> Error {
    Error::FailedPrecondition(format!(
        "the blobs should be in {}, which cannot be seen from here ({why}): run this on containerd's \
         machine, as root, where its folders are mounted",
        folder.display()
    ))
}

fn encoded(digest: &str) -> &str {
    digest.split_once(':').map_or("", |(_, hex)| hex)
}

/// The hash of a digest's algorithm.
enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn new(digest: &str) -> Option<Self> {
        match digest.split_once(':')?.0 {
            "sha256" => Some(Self::Sha256(Sha256::new())),
            "sha384" => Some(Self::Sha384(Sha384::new())),
            "sha512" => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    fn hex(self) -> String {
        match self {
            Self::Sha256(hasher) => format!("{:x}", hasher.finalize()),
            Self::Sha384(hasher) => format!("{:x}", hasher.finalize()),
            Self::Sha512(hasher) => format!("{:x}", hasher.finalize()),
        }
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
