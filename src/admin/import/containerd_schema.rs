//! The part of containerd's bolt schema that holds namespaces and images. The layout is the same from
//! containerd 1.0 to 2.3 (`core/metadata/buckets.go`):
//!
//! ```text
//! v1/<namespace>
//! ├── labels/<key>                → value
//! └── images/<name>
//!     ├── createdat, updatedat    → Go's time.MarshalBinary
//!     ├── labels/<key>            → value
//!     ├── annotations/<key>       → value; of the target
//!     └── target
//!         ├── digest, mediatype   → text
//!         └── size                → Go's signed varint
//! ```
//!
//! Other buckets are not read, so damage to them does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bbolt_read::{Bucket, Damage, Entry, FileAtRest, ReadAt, Snapshot, Value};
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::api::namespace::Namespace as Record;
use crate::model::go::quote::quote;
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};

/// Seconds from Go's zero time, the year 1, to the Unix epoch, 1970.
const GO_ZERO_TO_UNIX_SECONDS: i64 = 62_135_596_800;

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
    let mut reading = Reading { snapshot: file.snapshot(), each, unknown: RefCell::default() };
    reading.file()?;
    Ok(Notes { other_meta: file.other_meta().cloned(), unknown: reading.unknown.into_inner() })
}

struct Reading<'b, 's, S: ?Sized, F> {
    snapshot: &'b Snapshot<'s, S>,
    each: F,
    unknown: RefCell<BTreeSet<String>>,
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
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) if key == b"v1" => {
                    known = true;
                    self.namespaces(&bucket)?;
                }
                Ok(_) => {}
                Err(lost) => {
                    known = true;
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
                Err(lost) => self.lost("namespaces", lost)?,
            }
        }
        Ok(())
    }

    fn namespace(&mut self, namespace: &Namespace, bucket: &Bucket) -> Result<()> {
        let (mut labels, mut images) = (BTreeMap::new(), None);
        for entry in self.snapshot.entries(bucket) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), .. }) => match key.as_slice() {
                    b"labels" => match self.texts(&bucket) {
                        Ok(read) => labels = read,
                        Err(damage) => self.one_lost(
                            "the labels of namespace",
                            namespace.as_str().as_bytes(),
                            &damage,
                        )?,
                    },
                    b"images" => images = Some(bucket),
                    other if OTHER_BUCKETS.contains(&other) => {}
                    other => self.unknown("in a namespace:", other),
                },
                Ok(Entry { key, .. }) => self.unknown("in a namespace:", &key),
                Err(lost) => self.lost(format_args!("buckets of namespace {namespace}"), lost)?,
            }
        }
        let record = Record { name: namespace.to_string(), labels, ..Record::default() };
        (self.each)(Found::Namespace(namespace.clone(), record))?;
        let Some(images) = images else { return Ok(()) };
        let image_of = format!("namespace {namespace}: image");
        for entry in self.snapshot.entries(&images) {
            match entry {
                Ok(Entry { key, value: Value::Bucket(bucket), page }) => {
                    match self.image(&key, page, &bucket) {
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

    /// Reads the image of a bucket. `page` is the page of the bucket's entry, for errors.
    fn image(&self, name: &[u8], page: u64, bucket: &Bucket) -> Result<Image, Damage> {
        let mut image = Image { name: text(name, page)?, ..Image::default() };
        // containerd reads a missing time as Go's zero time.
        let mut created = Timestamp { seconds: -GO_ZERO_TO_UNIX_SECONDS, ..Timestamp::default() };
        let mut updated = created.clone();
        let mut target = None;
        let mut annotations = BTreeMap::new();
        for entry in self.snapshot.entries(bucket) {
            let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
            match (key.as_slice(), value) {
                (b"createdat", Value::Bytes(bytes)) => created = time(&bytes, page)?,
                (b"updatedat", Value::Bytes(bytes)) => updated = time(&bytes, page)?,
                (b"labels", Value::Bucket(labels)) => image.labels = self.texts(&labels)?,
                (b"annotations", Value::Bucket(bucket)) => annotations = self.texts(&bucket)?,
                (b"target", Value::Bucket(bucket)) => target = Some(bucket),
                (other, _) => self.unknown("in an image:", other),
            }
        }
        let target = target.ok_or_else(|| Damage::new(page, "it has no target"))?;
        let into = image.target.mut_or_insert_default();
        into.annotations = annotations;
        for entry in self.snapshot.entries(&target) {
            let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
            match (key.as_slice(), value) {
                (b"digest", Value::Bytes(bytes)) => into.digest = text(&bytes, page)?,
                (b"mediatype", Value::Bytes(bytes)) => into.media_type = text(&bytes, page)?,
                (b"size", Value::Bytes(bytes)) => {
                    into.size =
                        varint(&bytes).ok_or_else(|| Damage::new(page, "its size is no number"))?;
                }
                (other, _) => self.unknown("in the target of an image:", other),
            }
        }
        image.created_at = MessageField::some(created);
        image.updated_at = MessageField::some(updated);
        // containerd stores only valid images, so an invalid one is damaged.
        image::validate(&image).map_err(|e| Damage::new(page, e.to_string()))?;
        Ok(image)
    }

    fn texts(&self, bucket: &Bucket) -> Result<BTreeMap<String, String>, Damage> {
        let mut texts = BTreeMap::new();
        for entry in self.snapshot.entries(bucket) {
            let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
            let Value::Bytes(value) = value else {
                return Err(Damage::new(page, format!("{} is a bucket", quote(truncated(&key)))));
            };
            texts.insert(text(&key, page)?, text(&value, page)?);
        }
        Ok(texts)
    }
}

/// Bytes of a key that an error shows.
const MAX_SHOWN_BYTES: usize = 256;

fn truncated(key: &[u8]) -> &[u8] {
    key.get(..MAX_SHOWN_BYTES).unwrap_or(key)
}

fn text(bytes: &[u8], page: u64) -> Result<String, Damage> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| Damage::new(page, format!("{} is no valid text", quote(truncated(bytes)))))
}

/// Decodes a time from Go's `time.Time.MarshalBinary`: version, seconds since the year 1, nanoseconds,
/// and the offset of the time zone in minutes (in version 2 also seconds), which does not change the
/// moment.
fn time(bytes: &[u8], page: u64) -> Result<Timestamp, Damage> {
    let read = || {
        let (version, rest) = bytes.split_first()?;
        let (seconds, rest) = rest.split_first_chunk::<8>()?;
        let (nanos, offset) = rest.split_first_chunk::<4>()?;
        if !matches!((version, offset.len()), (1, 2) | (2, 3)) {
            return None;
        }
        let seconds = i64::from_be_bytes(*seconds).checked_sub(GO_ZERO_TO_UNIX_SECONDS)?;
        let nanos = i32::from_be_bytes(*nanos);
        (0..1_000_000_000).contains(&nanos).then(|| Timestamp {
            seconds,
            nanos,
            ..Timestamp::default()
        })
    };
    read().ok_or_else(|| Damage::new(page, "one of its times is no time"))
}

/// Decodes a number from Go's `binary.PutVarint`.
fn varint(bytes: &[u8]) -> Option<i64> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * u32::try_from(index).ok()?;
        let shifted = bits.checked_shl(shift)?;
        if shifted >> shift != bits {
            return None;
        }
        number |= shifted;
        if byte & 0x80 == 0 {
            // The sign is in the lowest bit.
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_go() {
        // 2026-11-24 19:00:00.000000005 UTC, in two versions.
        let seconds = (1_795_546_800 + GO_ZERO_TO_UNIX_SECONDS).to_be_bytes();
        let bytes = |version: u8, nanos: i32, offset: &[u8]| {
            [&[version], seconds.as_slice(), &nanos.to_be_bytes(), offset].concat()
        };
        let at = Timestamp { seconds: 1_795_546_800, nanos: 5, ..Timestamp::default() };
        assert_eq!(time(&bytes(1, 5, &[0xff; 2]), 7), Ok(at.clone()));
        assert_eq!(time(&bytes(2, 5, &[0; 3]), 7), Ok(at));
        let mut wrong = vec![bytes(3, 5, &[0; 2]), bytes(1, 5, &[0; 3]), bytes(2, 5, &[0; 2])];
        wrong.extend([bytes(1, -1, &[0; 2]), bytes(1, 1_000_000_000, &[0; 2]), vec![], vec![1; 8]]);
        let first = [&[1], i64::MIN.to_be_bytes().as_slice(), &[0; 6]].concat();
        wrong.push(first);
        for bytes in wrong {
            let damage = time(&bytes, 7).unwrap_err();
            assert_eq!(damage.to_string(), "page 7: one of its times is no time", "{bytes:?}");
        }
    }

    #[test]
    fn numbers_are_those_of_go() {
        for (bytes, number) in [
            (vec![0], 0),
            (vec![1], -1),
            (vec![2], 1),
            (vec![0xac, 0x02], 150),
            ([vec![0xfe], vec![0xff; 8], vec![1]].concat(), i64::MAX),
            ([vec![0xff; 9], vec![1]].concat(), i64::MIN),
        ] {
            assert_eq!(varint(&bytes), Some(number), "{bytes:?}");
        }
        for bytes in [vec![], vec![0x80], vec![0xff; 10], [vec![0xff; 9], vec![2]].concat()] {
            assert_eq!(varint(&bytes), None, "{bytes:?}");
        }
        assert_eq!(varint(&[0x80; 1000]), None);
    }
}
