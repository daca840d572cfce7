//! What containerd keeps of namespaces and images in its bolt file. The layout is the same from 1.0
//! to 2.3 (`core/metadata/buckets.go`):
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
//! What else is there is not read: damage to it does not matter here.

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

/// Seconds from the year 1, where Go's times begin, to 1970.
const UNIX: i64 = 62_135_596_800;

/// What a file holds, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A namespace with its labels; its images follow.
    Namespace(Namespace, Record),
    /// An image of that namespace.
    Image(Namespace, Image),
    /// Something that cannot be read.
    Lost(Unread),
}

/// Records that cannot be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread(String);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What reading a whole file gave.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// So many namespaces.
    pub namespaces: u64,
    /// So many images.
    pub images: u64,
    /// What cannot be read.
    pub lost: Vec<Unread>,
    /// What else there is to say.
    pub notes: Notes,
}

/// What was seen beside the records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    /// What is wrong with the meta page that is not used: then the last change may be missing.
    pub other_meta: Option<Damage>,
    /// Keys that are not known here, and what they belong to: a later containerd has more, or they
    /// are damaged ones. What they hold was not read.
    pub unknown: BTreeSet<String>,
}

/// What a namespace has beside labels and images.
const OTHERS: [&[u8]; 6] =
    [b"containers", b"content", b"ingests", b"leases", b"sandboxes", b"snapshots"];

/// So many unknown keys are noted.
const MAX_UNKNOWN: usize = 20;

/// Reads all records and keeps none. Takes any bytes, which makes it the place to fuzz.
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

/// Hands all records to `each`, by namespace and name, until it fails.
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
        self.lost(format_args!("{what} {}", quote(shown(key))), format_args!("({damage})"))
    }

    fn unknown(&self, of: &str, key: &[u8]) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN {
            unknown.insert(format!("{of} {}", quote(shown(key))));
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
            "a bucket \"v1\": it is a bolt file, but containerd keeps its records there",
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
                            let damage = Damage::new(page, "this cannot be its name");
                            self.one_lost("namespace", &key, &damage)?;
                        }
                    }
                }
                // The version of containerd's schema.
                Ok(_) => {}
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
                    other if OTHERS.contains(&other) => {}
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

    /// The image of a bucket that lies in that page.
    fn image(&self, name: &[u8], page: u64, bucket: &Bucket) -> Result<Image, Damage> {
        let mut image = Image { name: text(name, page)?, ..Image::default() };
        // What is not there reads as Go's first moment.
        let mut created = Timestamp { seconds: -UNIX, ..Timestamp::default() };
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
        // containerd has never stored one that is not valid.
        image::validate(&image).map_err(|e| Damage::new(page, e.to_string()))?;
        Ok(image)
    }

    fn texts(&self, bucket: &Bucket) -> Result<BTreeMap<String, String>, Damage> {
        let mut texts = BTreeMap::new();
        for entry in self.snapshot.entries(bucket) {
            let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
            if let Value::Bytes(value) = value {
                texts.insert(text(&key, page)?, text(&value, page)?);
            }
        }
        Ok(texts)
    }
}

/// Bytes of a key that an error sentence shows.
const MAX_SHOWN_BYTES: usize = 256;

fn shown(key: &[u8]) -> &[u8] {
    key.get(..MAX_SHOWN_BYTES).unwrap_or(key)
}

fn text(bytes: &[u8], page: u64) -> Result<String, Damage> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| Damage::new(page, format!("{} is no valid text", quote(shown(bytes)))))
}

/// A time as Go's `time.Time.MarshalBinary` writes it: version, seconds since the year 1, nanoseconds,
/// and an offset in minutes, in version 2 with seconds, which says nothing of the moment.
fn time(bytes: &[u8], page: u64) -> Result<Timestamp, Damage> {
    let read = || {
        let (version, rest) = bytes.split_first()?;
        let (seconds, rest) = rest.split_first_chunk::<8>()?;
        let (nanos, offset) = rest.split_first_chunk::<4>()?;
        if !matches!((version, offset.len()), (1, 2) | (2, 3)) {
            return None;
        }
        let seconds = i64::from_be_bytes(*seconds).checked_sub(UNIX)?;
        let nanos = i32::from_be_bytes(*nanos);
        (0..1_000_000_000).contains(&nanos).then(|| Timestamp {
            seconds,
            nanos,
            ..Timestamp::default()
        })
    };
    read().ok_or_else(|| Damage::new(page, "one of its times is no time"))
}

/// A number as Go's `binary.PutVarint` writes it.
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
        let seconds = (1_795_546_800 + UNIX).to_be_bytes();
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
