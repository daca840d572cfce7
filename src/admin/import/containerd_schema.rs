//! All namespaces and images of a containerd's bolt file, in order. Damage to a record costs that record
//! only. [`schema`] has the layout, and decodes a record.
//!
//! Other buckets are not read, so damage to them does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bbolt_read::{Bucket, Damage, Entry, FileAtRest, ReadAt, Snapshot, Value};

use crate::api::namespace::Namespace as Record;
use crate::containerd::schema::{self, truncated};
use crate::model::go::quote::quote;
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result};

/// One item read from a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A namespace with its labels. Its images follow.
    Namespace(Namespace, Record),
    /// An image of the namespace.
    Image(Namespace, Image),
    /// Records that cannot be read.
    Lost(Unread),
}

/// Names records that cannot be read, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread(String);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Contents of a whole file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Number of namespaces.
    pub namespaces: u64,
    /// Number of readable images.
    pub images: u64,
    /// Records that cannot be read.
    pub lost: Vec<Unread>,
    /// Observations beside the records.
    pub notes: Notes,
}

/// Observations beside the records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Damage of the meta page that is not used. If there is any, the last change may be missing.
    pub other_meta: Option<Damage>,
    /// Unknown keys, with the bucket that they belong to: keys of a later containerd, or damaged ones.
    /// Their values are not read.
    pub unknown: BTreeSet<String>,
    /// Whether a part of the list of buckets or namespaces is lost, and with it the way to all images
    /// below.
    pub list_lost: bool,
}

/// The one key beside the buckets of the namespaces.
const SCHEMA_VERSION: &[u8] = b"version";

/// Known buckets of a namespace beside labels and images.
const OTHER_BUCKETS: [&[u8]; 6] =
    [b"containers", b"content", b"ingests", b"leases", b"sandboxes", b"snapshots"];

/// Number of unknown keys that [`Notes`] keeps.
const MAX_UNKNOWN_KEYS: usize = 20;

/// Reads all records and keeps none of them. Accepts any bytes: a fuzz target calls this function.
pub fn survey(source: &(impl ReadAt + ?Sized)) -> Result<Survey> {
    let mut survey = Survey::default();
    survey.notes = read(source, |found| {
        match found {
            Found::Namespace(..) => survey.namespaces += 1,
            Found::Image(..) => survey.images += 1,
            Found::Lost(lost) => survey.lost.push(lost),
        }
        Ok(())
    })?;
    Ok(survey)
}

/// Calls `each` for all records in the order of namespace and name, until it fails.
pub fn read<S: ReadAt + ?Sized>(
    source: &S,
    each: impl FnMut(Found) -> Result<()>,
) -> Result<Notes> {
    let file = FileAtRest::open(source).map_err(|damage| Error::DataLoss(damage.to_string()))?;
    let mut reading =
        Reading { snapshot: file.snapshot(), each, unknown: RefCell::default(), list_lost: false };
    reading.file()?;
    Ok(Notes {
        other_meta: file.other_meta().cloned(),
        unknown: reading.unknown.into_inner(),
        list_lost: reading.list_lost,
    })
}

struct Reading<'b, 's, S: ?Sized, F> {
    snapshot: &'b Snapshot<'s, S>,
    each: F,
    unknown: RefCell<BTreeSet<String>>,
    list_lost: bool,
}

impl<S: ReadAt + ?Sized, F: FnMut(Found) -> Result<()>> Reading<'_, '_, S, F> {
    fn lost(&mut self, what: impl fmt::Display, why: impl fmt::Display) -> Result<()> {
        (self.each)(Found::Lost(Unread(format!("{what} {why}"))))
    }

    fn one_lost(&mut self, what: impl fmt::Display, key: &[u8], damage: &Damage) -> Result<()> {
        self.lost(format_args!("{what} {}", quote(truncated(key))), format_args!("({damage})"))
    }

    fn unknown(&self, of: &str, key: &[u8]) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN_KEYS {
            unknown.insert(format!("{of} {}", quote(truncated(key))));
        }
    }

    fn file(&mut self) -> Result<()> {
        let mut known = false;
        for entry in self.snapshot.entries(&self.snapshot.root()) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) if key == schema::ROOT => {
                    known = true;
                    self.namespaces(&bucket)?;
                }
                Ok(_) => {}
                Err(lost) => {
                    (known, self.list_lost) = (true, true);
                    self.lost("the list of buckets", lost)?;
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

    fn namespaces(&mut self, bucket: &Bucket) -> Result<()> {
        for entry in self.snapshot.entries(bucket) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), page }) => {
                    let parsed = std::str::from_utf8(&key).ok().map(Namespace::parse);
                    match parsed {
                        Some(Ok(namespace)) => self.namespace(&namespace, &bucket)?,
                        _ => {
                            let damage = Damage::new(page, "the name is invalid");
                            self.one_lost("namespace", &key, &damage)?;
                        }
                    }
                }
                Ok(Entry { key, .. }) if key == SCHEMA_VERSION => {}
                Ok(Entry { key, page, .. }) => {
                    self.one_lost("namespace", &key, &Damage::new(page, "it is no bucket"))?;
                }
                Err(lost) => {
                    self.list_lost = true;
                    self.lost("namespaces", lost)?;
                }
            }
        }
        Ok(())
    }

    fn namespace(&mut self, namespace: &Namespace, bucket: &Bucket) -> Result<()> {
        let (mut labels, mut images) = (BTreeMap::new(), None);
        for entry in self.snapshot.entries(bucket) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) => match key.as_slice() {
                    schema::LABELS => match schema::texts(self.snapshot, &bucket) {
                        Ok(read) => labels = read,
                        Err(damage) => self.one_lost(
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
                    self.list_lost = true;
                    self.lost(format_args!("buckets of namespace {namespace}"), lost)?;
                }
            }
        }
        let record = Record { name: namespace.to_string(), labels, ..Record::default() };
        (self.each)(Found::Namespace(namespace.clone(), record))?;
        let Some(images) = images else { return Ok(()) };
        let image_of = format!("namespace {namespace}: image");
        for entry in self.snapshot.entries(&images) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), page }) => {
                    let mut unknown = |of: &str, key: &[u8]| self.unknown(of, key);
                    match schema::image(self.snapshot, &key, page, &bucket, &mut unknown) {
                        Ok(image) => (self.each)(Found::Image(namespace.clone(), image))?,
                        Err(damage) => self.one_lost(&image_of, &key, &damage)?,
                    }
                }
                Ok(Entry { key, page, .. }) => {
                    self.one_lost(&image_of, &key, &Damage::new(page, "it is no bucket"))?;
                }
                Err(lost) => self.lost(format_args!("namespace {namespace}: images"), lost)?,
            }
        }
        Ok(())
    }
}
