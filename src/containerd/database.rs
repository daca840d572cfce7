//! containerd's database (`meta.db`), read while containerd writes it.
//!
//! A read shows one state of the database, and never an older one than containerd's answers from before
//! the read; [`bbolt_read`] says why. A record with a key that this version does not know counts as
//! damaged, because only containerd itself can answer for it.
//!
//! [`MetadataDatabase::open`] refuses a file that cannot be read exactly. [`super::layout`] finds the file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bbolt_read::{Damage, Entry, LiveError, LiveFile, Snapshot, Value};
use go_compat::quote::quote;
use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

use crate::api::content::Info;
use crate::api::namespace::Namespace as Record;
use crate::containerd::schema::{self, BLOBS, IMAGES, LABELS, ROOT, truncated};
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result, printable};
use crate::store::dir::filesystem;

/// Images that one step of a walk reads. With fewer images a walk is slower. With more, containerd is more
/// likely to commit meanwhile, and then the step begins again.
const MAX_STEP_IMAGES: usize = 64;

/// The bytes of pages after which a step of a walk ends, so that large images are read one by one.
const MAX_STEP_BYTES: u64 = 256 << 10;

/// The time after which a read that containerd's commits overtake is given up: containerd answers then.
const MAX_READ_TIME: Duration = Duration::from_millis(50);

/// The kernel's list of file locks.
const LOCK_LIST: &str = "/proc/locks";

/// The database of a containerd.
#[derive(Debug)]
pub struct MetadataDatabase {
    file: LiveFile,
    device: u64,
    inode: u64,
}

/// The result of a read that may take a given number of bytes.
#[derive(Debug)]
pub(crate) enum Bounded<T> {
    /// The value that was read.
    Read(T),
    /// The pages to read have more bytes.
    TooLarge,
}

/// Some images of a namespace, in order of their names.
#[derive(Debug)]
pub(crate) struct Images {
    /// The images.
    pub images: Vec<Image>,
    /// The key at which the next step begins; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// The transaction whose state the images are of.
    pub transaction: u64,
}

impl MetadataDatabase {
    /// Opens a database, which a containerd may write or not.
    ///
    /// # Errors
    /// A sentence, if the file cannot be opened, or if its file system does not show a process what another
    /// process has just written.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let shown = printable::escaped(&shown);
        let file = LiveFile::open(path).map_err(|e| format!("{shown}: {e}"))?;
        let file = file.with_max_time(MAX_READ_TIME);
        let source: &File = file.source();
        let number =
            file.file_system_type().map_err(|e| format!("{shown}: its file system: {e}"))?;
        if let Some(name) = filesystem::remote_name(number) {
            return Err(format!("{shown} lies on {name}, which does not show each write at once"));
        }
        let found = source.metadata().map_err(|e| format!("{shown}: {e}"))?;
        Ok(Self { device: found.dev(), inode: found.ino(), file })
    }

    /// An error if no process has locked the file as bbolt does.
    ///
    /// # Errors
    /// No process has it open, or that cannot be found out.
    pub(crate) fn check_is_locked(&self) -> Result<(), String> {
        let shown = self.file.path().display().to_string();
        let shown = printable::escaped(&shown);
        let source: &File = self.file.source();
        match flock(source.as_fd(), FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(()),
            Err(e) => Err(format!("{shown}: testing its lock: {e}")),
            Ok(()) => {
                let _ = flock(source.as_fd(), FlockOperation::Unlock);
                Err(format!("{shown} is not open in a running containerd"))
            }
        }
    }

    /// Whether the process with this number has locked the file as bbolt does: then it is that containerd's
    /// database. False if the kernel does not tell.
    pub(crate) fn is_locked_by(&self, process: i32) -> bool {
        let locks = fs::read_to_string(LOCK_LIST).unwrap_or_default();
        let file = format!("{:02x}:{:02x}:{}", major(self.device), minor(self.device), self.inode);
        locks.lines().any(|line| is_lock_of(line, process, &file))
    }

    /// Whether the path still leads to this file.
    pub fn is_current(&self) -> bool {
        self.is_at(self.file.path())
    }

    /// Whether `path` leads to this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// The newest transaction. While it stays the same, the database does too.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn transaction(&self) -> Result<u64> {
        self.file.txid().map_err(unreadable)
    }

    /// All namespaces with their labels.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn namespaces(&self) -> Result<Vec<Record>> {
        self.read(|snapshot| {
            let Some(root) = snapshot.bucket(&[ROOT])? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for entry in snapshot.entries(&root) {
                let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
                // The other keys are containerd's versions of its schema.
                let Value::Bucket(bucket) = value else { continue };
                let labels = match snapshot.get(&bucket, LABELS)? {
                    Some(Value::Bucket(labels)) => schema::texts(snapshot, &labels)?,
                    _ => BTreeMap::new(),
                };
                let name = schema::text(&key, page)?;
                found.push(Record { name, labels, ..Record::default() });
            }
            Ok(found)
        })
    }

    /// The image of that name.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know the record.
    pub fn image(&self, namespace: &Namespace, name: &str) -> Result<Option<Image>> {
        self.read(|snapshot| image_of(snapshot, namespace, name))
    }

    /// The image of that name, if the pages on the way to it and its own have `max_bytes` bytes at most.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know the record.
    pub(crate) fn image_at_most(
        &self,
        namespace: &Namespace,
        name: &str,
        max_bytes: u64,
    ) -> Result<Bounded<Option<Image>>> {
        self.read_at_most(max_bytes, |snapshot| image_of(snapshot, namespace, name))
    }

    /// The next images of a namespace, from a name on. Each step of a walk sees a state of its own, and
    /// reads pages of at most `max_bytes` bytes.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know a record.
    pub(crate) fn images_from(
        &self,
        namespace: &Namespace,
        from: &[u8],
        max_bytes: u64,
    ) -> Result<Bounded<Images>> {
        self.read_at_most(max_bytes, |snapshot| {
            let transaction = snapshot.txid();
            let mut found = Images { images: Vec::new(), next: None, transaction };
            let path = [ROOT, namespace.as_str().as_bytes(), IMAGES];
            let Some(bucket) = snapshot.bucket(&path)? else { return Ok(found) };
            for entry in snapshot.entries_from(&bucket, from) {
                let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
                let is_long = snapshot.bytes_read() > MAX_STEP_BYTES && !found.images.is_empty();
                if is_long || found.images.len() == MAX_STEP_IMAGES {
                    found.next = Some(key);
                    break;
                }
                found.images.push(image(snapshot, &key, page, value)?);
            }
            Ok(found)
        })
    }

    /// The record of a blob, if the namespace has one. A blob that a client is still writing has none.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know the record.
    pub fn content(&self, namespace: &Namespace, digest: &str) -> Result<Option<Info>> {
        self.read(|snapshot| {
            let [content, blob] = BLOBS;
            let path = [ROOT, namespace.as_str().as_bytes(), content, blob, digest.as_bytes()];
            let Some(bucket) = snapshot.bucket(&path)? else { return Ok(None) };
            schema::content(snapshot, digest, &bucket).map(Some)
        })
    }

    /// The labels of a namespace. As in containerd, a missing namespace has none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn namespace_labels(&self, name: &str) -> Result<BTreeMap<String, String>> {
        self.read(|snapshot| match snapshot.bucket(&[ROOT, name.as_bytes(), LABELS])? {
            Some(bucket) => schema::texts(snapshot, &bucket),
            None => Ok(BTreeMap::new()),
        })
    }

    fn read<T>(&self, read: impl FnMut(&Snapshot<'_, File>) -> Result<T, Damage>) -> Result<T> {
        let read = self.file.read(read).map_err(unreadable)?;
        Ok(read.value)
    }

    fn read_at_most<T>(
        &self,
        max_bytes: u64,
        read: impl FnMut(&Snapshot<'_, File>) -> Result<T, Damage>,
    ) -> Result<Bounded<T>> {
        match self.file.read_at_most(max_bytes, read) {
            Ok(read) => Ok(Bounded::Read(read.value)),
            Err(LiveError::TooLarge { .. }) => Ok(Bounded::TooLarge),
            Err(e) => Err(unreadable(e)),
        }
    }
}

/// Whether a line of [`LOCK_LIST`] is about bbolt's lock. A line about a waiting process has an arrow.
fn is_lock_of(line: &str, process: i32, file: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let mut next = || words.next().unwrap_or_default();
    (next(), next(), next()) == ("FLOCK", "ADVISORY", "WRITE")
        && next().parse() == Ok(process)
        && next() == file
}

/// The sentence for a database that cannot be read. A client does not see it: containerd answers instead.
fn unreadable(e: LiveError) -> Error {
    Error::Unavailable(format!("containerd's database cannot be read: {e}"))
}

/// The image of a name.
fn image_of<S: bbolt_read::ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<Image>, Damage> {
    let path = [ROOT, namespace.as_str().as_bytes(), IMAGES];
    let Some(images) = snapshot.bucket(&path)? else { return Ok(None) };
    match snapshot.get(&images, name.as_bytes())? {
        Some(value) => image(snapshot, name.as_bytes(), 0, value).map(Some),
        None => Ok(None),
    }
}

/// The image of an entry. An unknown key may change what containerd answers.
fn image<S: bbolt_read::ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    name: &[u8],
    page: u64,
    value: Value,
) -> Result<Image, Damage> {
    let shown = || quote(truncated(name));
    let Value::Bucket(bucket) = value else {
        return Err(Damage::new(page, format!("image {} is no bucket", shown())));
    };
    let mut other = None;
    let mut unknown = |_: &str, key: &[u8]| other = Some(quote(truncated(key)));
    let image = schema::image(snapshot, name, page, &bucket, &mut unknown)?;
    match other {
        Some(key) => Err(Damage::new(page, format!("image {} has the unknown key {key}", shown()))),
        None => Ok(image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_known_by_its_process_and_its_file() {
        let line = "7: FLOCK  ADVISORY  WRITE 25521 fe:00:9978119 0 EOF";
        assert!(is_lock_of(line, 25521, "fe:00:9978119"));
        assert!(!is_lock_of(line, 2552, "fe:00:9978119") && !is_lock_of(line, 25521, "fe:00:99"));
        for other in ["7: POSIX  ADVISORY", "7: -> FLOCK  ADVISORY", "7: FLOCK  MANDATORY", ""] {
            let other = line.replace("7: FLOCK  ADVISORY", other);
            assert!(!is_lock_of(&other, 25521, "fe:00:9978119"), "{other}");
        }
        assert!(!is_lock_of(&line.replace("WRITE", "READ"), 25521, "fe:00:9978119"));
    }
}
