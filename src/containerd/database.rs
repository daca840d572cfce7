//! containerd's database (`meta.db`), read while containerd writes it.
//!
//! A read is one state of the database, and never older than an answer of containerd's that was given
//! before the read began; [`bbolt_read`] says why. A record that this version does not fully know counts
//! as damaged: containerd itself must answer for it.
//!
//! [`Database::open`] refuses a file that may be another one than containerd's, or that cannot be read
//! exactly. It does not find the file: that is [`super::plugins`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bbolt_read::{Damage, Entry, LiveError, LiveFile, Snapshot, Value};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::api::content::Info;
use crate::api::namespace::Namespace as Record;
use crate::containerd::schema::{self, BLOBS, IMAGES, LABELS, ROOT, truncated};
use crate::model::go::quote::quote;
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result, printable};
use crate::store::dir::filesystem;

/// Images that one step of a walk reads. Fewer make a walk slower. More make it likelier that
/// containerd commits meanwhile, and the step begins again.
const WALK_STEP: usize = 64;

/// A database that a containerd has open.
#[derive(Debug)]
pub struct Database {
    file: LiveFile,
    device: u64,
    inode: u64,
}

/// Some images of a namespace, in order of their names.
#[derive(Debug)]
pub struct Images {
    /// The images.
    pub images: Vec<Image>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// The transaction whose state they are.
    pub transaction: u64,
}

impl Database {
    /// Opens the database of a running containerd.
    ///
    /// # Errors
    /// Why it must not be read: it cannot be opened, no process has locked it as bbolt does, or its
    /// file system does not show a process what another one has just written.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let shown = printable::escaped(&shown);
        let file = LiveFile::open(path).map_err(|e| format!("{shown}: {e}"))?;
        let source: &File = file.source();
        let number =
            file.file_system_type().map_err(|e| format!("{shown}: its file system: {e}"))?;
        if let Some(name) = filesystem::remote_name(number) {
            return Err(format!("{shown} lies on {name}, which does not show each write at once"));
        }
        match flock(source.as_fd(), FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(format!("{shown}: testing its lock: {e}")),
            Ok(()) => return Err(format!("{shown} is not open in a running containerd")),
        }
        let found = source.metadata().map_err(|e| format!("{shown}: {e}"))?;
        Ok(Self { device: found.dev(), inode: found.ino(), file })
    }

    /// Whether the path still leads to this file.
    pub fn is_current(&self) -> bool {
        self.is_at(self.file.path())
    }

    /// Whether `path` leads to this file.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// The newest transaction. While it stays the same, so does everything in the database.
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

    /// The image of a name.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know the record.
    pub fn image(&self, namespace: &Namespace, name: &str) -> Result<Option<Image>> {
        self.read(|snapshot| {
            let path = [ROOT, namespace.as_str().as_bytes(), IMAGES];
            let Some(images) = snapshot.bucket(&path)? else { return Ok(None) };
            match snapshot.get(&images, name.as_bytes())? {
                Some(value) => image(snapshot, name.as_bytes(), 0, value).map(Some),
                None => Ok(None),
            }
        })
    }

    /// Some images of a namespace from a name on. A walk
    /// that takes several steps sees each image in a state of its own.
    ///
    /// # Errors
    /// The file cannot be read, or this version does not know a record.
    pub fn images_from(&self, namespace: &Namespace, from: &[u8]) -> Result<Images> {
        self.read(|snapshot| {
            let transaction = snapshot.txid();
            let mut found = Images { images: Vec::new(), next: None, transaction };
            let path = [ROOT, namespace.as_str().as_bytes(), IMAGES];
            let Some(bucket) = snapshot.bucket(&path)? else { return Ok(found) };
            for entry in snapshot.entries_from(&bucket, from) {
                let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
                if found.images.len() == WALK_STEP {
                    found.next = Some(key);
                    break;
                }
                found.images.push(image(snapshot, &key, page, value)?);
            }
            Ok(found)
        })
    }

    /// What is known of a blob, if the namespace has it. A blob that is still being written has no
    /// record there.
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

    /// The labels of a namespace; none if there is no such namespace, as in containerd.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn namespace_labels(&self, name: &str) -> Result<BTreeMap<String, String>> {
        self.read(|snapshot| match snapshot.bucket(&[ROOT, name.as_bytes(), LABELS])? {
            Some(bucket) => schema::texts(snapshot, &bucket),
            None => Ok(BTreeMap::new()),
        })
    }

    fn read<T>(&self, read: impl FnMut(&Snapshot<'_, File>) -> Result<T, Damage>) -> Result<T> {
        let read = self.file.read(read).map_err(unreadable)?;
        Ok(read.value)
    }
}

/// A database that cannot be read is no error for a client: containerd is asked instead.
fn unreadable(e: LiveError) -> Error {
    Error::Unavailable(format!("containerd's database cannot be read: {e}"))
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
