//! Reads all namespaces and images of containerd's bolt file, ordered by namespace and name. If one record
//! is damaged, only that record is lost. [`schema`] knows the layout of the file and decodes records.
//!
//! This module reads no other buckets, so damage to them does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bbolt_read::{Bucket, Damage, Entry, FileAtRest, ReadAt, Snapshot, Value};
use go_compat::quote::quote;

use crate::api::namespace::Namespace as Record;
use crate::containerd::schema::{self, truncated};
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result};

/// An item of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum FileItem {
    /// A namespace with its labels. The next items are its images.
    Namespace(Namespace, Record),
    /// An image of the namespace.
    Image(Namespace, Image),
    /// Records that cannot be read.
    Unreadable(UnreadableRecord),
}

/// A sentence that names unreadable records and gives the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord(String);

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts and findings of a whole file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Number of namespaces.
    pub namespaces: u64,
    /// Number of readable images.
    pub images: u64,
    /// Records that cannot be read.
    pub unreadable: Vec<UnreadableRecord>,
    /// Findings that are not about one record.
    pub notes: Notes,
}

/// Findings that are not about one record.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Damage of the other meta page, the one that was not chosen. That page may have been the newer one,
    /// so the last change may be missing.
    pub other_meta: Option<Damage>,
    /// Unknown keys, each with the bucket that contains it. A later containerd wrote them, or they are
    /// damaged. Their values are not read.
    pub unknown: BTreeSet<String>,
    /// Whether a part of a list of buckets or namespaces is unreadable. All images below that part are
    /// lost, and their names are unknown.
    pub(crate) list_is_damaged: bool,
}

/// The only key in the bucket of namespaces that is not a namespace.
const SCHEMA_VERSION: &[u8] = b"version";

/// The buckets of a namespace that containerd knows and this module does not read.
const OTHER_BUCKETS: [&[u8]; 6] =
    [b"containers", b"content", b"ingests", b"leases", b"sandboxes", b"snapshots"];

/// Largest number of unknown keys that [`Notes`] keeps.
const MAX_UNKNOWN_KEYS: usize = 20;

/// Reads and counts all records. A fuzz target calls this function, so it must accept any bytes.
pub fn survey(source: &(impl ReadAt + ?Sized)) -> Result<Survey> {
    let mut survey = Survey::default();
    survey.notes = read(source, |found| {
        match found {
            FileItem::Namespace(..) => survey.namespaces += 1,
            FileItem::Image(..) => survey.images += 1,
            FileItem::Unreadable(lost) => survey.unreadable.push(lost),
        }
        Ok(())
    })?;
    Ok(survey)
}

/// Calls `each` with every item, ordered by namespace and name. Stops at the first error of `each`.
pub fn read<S: ReadAt + ?Sized>(
    source: &S,
    each: impl FnMut(FileItem) -> Result<()>,
) -> Result<Notes> {
    let file = FileAtRest::open(source).map_err(|damage| Error::DataLoss(damage.to_string()))?;
    let mut reading = Reader {
        snapshot: file.snapshot(),
        each,
        unknown: RefCell::default(),
        list_is_damaged: false,
    };
    reading.read_file()?;
    Ok(Notes {
        other_meta: file.other_meta().cloned(),
        unknown: reading.unknown.into_inner(),
        list_is_damaged: reading.list_is_damaged,
    })
}

struct Reader<'b, 's, S: ?Sized, F> {
    snapshot: &'b Snapshot<'s, S>,
    each: F,
    unknown: RefCell<BTreeSet<String>>,
    list_is_damaged: bool,
}

impl<S: ReadAt + ?Sized, F: FnMut(FileItem) -> Result<()>> Reader<'_, '_, S, F> {
    fn report_unreadable(&mut self, what: impl fmt::Display, why: impl fmt::Display) -> Result<()> {
        (self.each)(FileItem::Unreadable(UnreadableRecord(format!("{what} {why}"))))
    }

    fn report_damaged(
        &mut self,
        what: impl fmt::Display,
        key: &[u8],
        damage: &Damage,
    ) -> Result<()> {
        self.report_unreadable(
            format_args!("{what} {}", quote(truncated(key))),
            format_args!("({damage})"),
        )
    }

    fn unknown(&self, of: &str, key: &[u8]) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN_KEYS {
            unknown.insert(format!("{of} {}", quote(truncated(key))));
        }
    }

    fn read_file(&mut self) -> Result<()> {
        let mut known = false;
        for entry in self.snapshot.entries(&self.snapshot.root()) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) if key == schema::ROOT => {
                    known = true;
                    self.read_namespaces(&bucket)?;
                }
                Ok(_) => {}
                Err(lost) => {
                    (known, self.list_is_damaged) = (true, true);
                    self.report_unreadable("the list of buckets", lost)?;
                }
            }
        }
        if known {
            return Ok(());
        }
        Err(Error::not_found(
            "a bucket \"v1\": this is a bolt file, but containerd keeps its records in that bucket",
        ))
    }

    fn read_namespaces(&mut self, bucket: &Bucket) -> Result<()> {
        for entry in self.snapshot.entries(bucket) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), page }) => {
                    let parsed = std::str::from_utf8(&key).ok().map(Namespace::parse);
                    match parsed {
                        Some(Ok(namespace)) => self.read_namespace(&namespace, &bucket)?,
                        _ => {
                            let damage = Damage::new(page, "the name is invalid");
                            self.report_damaged("namespace", &key, &damage)?;
                        }
                    }
                }
                Ok(Entry { key, .. }) if key == SCHEMA_VERSION => {}
                Ok(Entry { key, page, .. }) => {
                    self.report_damaged("namespace", &key, &Damage::new(page, "it is no bucket"))?;
                }
                Err(lost) => {
                    self.list_is_damaged = true;
                    self.report_unreadable("namespaces", lost)?;
                }
            }
        }
        Ok(())
    }

    fn read_namespace(&mut self, namespace: &Namespace, bucket: &Bucket) -> Result<()> {
        let (mut labels, mut images) = (BTreeMap::new(), None);
        for entry in self.snapshot.entries(bucket) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) => match key.as_slice() {
                    schema::LABELS => match schema::texts(self.snapshot, &bucket) {
                        Ok(read) => labels = read,
                        Err(damage) => self.report_damaged(
                            "the labels of namespace",
                            namespace.as_str().as_bytes(),
                            &damage,
                        )?,
                    },
                    schema::IMAGES => images = Some(bucket),
                    other if OTHER_BUCKETS.contains(&other) => {}
                    other => self.unknown("in a namespace:", other),
                },
                Ok(Entry { key, .. }) => self.unknown("in a namespace:", &key),
                Err(lost) => {
                    self.list_is_damaged = true;
                    self.report_unreadable(format_args!("buckets of namespace {namespace}"), lost)?;
                }
            }
        }
        let record = Record { name: namespace.to_string(), labels, ..Record::default() };
        (self.each)(FileItem::Namespace(namespace.clone(), record))?;
        let Some(images) = images else { return Ok(()) };
        let image_of = format!("namespace {namespace}: image");
        for entry in self.snapshot.entries(&images) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), page }) => {
                    let mut unknown = |parent: &str, key: &[u8]| self.unknown(parent, key);
                    match schema::image(self.snapshot, &key, page, &bucket, &mut unknown) {
                        Ok(image) => (self.each)(FileItem::Image(namespace.clone(), image))?,
                        Err(damage) => self.report_damaged(&image_of, &key, &damage)?,
                    }
                }
                Ok(Entry { key, page, .. }) => {
                    self.report_damaged(&image_of, &key, &Damage::new(page, "it is no bucket"))?;
                }
                Err(lost) => {
                    self.report_unreadable(format_args!("namespace {namespace}: images"), lost)?
                }
            }
        }
        Ok(())
    }
}
