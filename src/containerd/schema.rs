//! The part of containerd's bolt schema that holds namespaces, images and content, decoded. The layout
//! is the same from containerd 1.0 to 2.3 (`core/metadata/buckets.go`):
//!
//! ```text
//! v1/<namespace>
//! ├── labels/<key>                → value
//! ├── images/<name>
//! │   ├── createdat, updatedat    → Go's time.MarshalBinary
//! │   ├── labels/<key>            → value
//! │   ├── annotations/<key>       → value; of the target
//! │   └── target
//! │       ├── digest, mediatype   → text
//! │       └── size                → Go's signed varint
//! └── content/blob/<digest>
//!     ├── createdat, updatedat    → Go's time.MarshalBinary
//!     ├── labels/<key>            → value
//!     └── size                    → Go's signed varint
//! ```
//!
//! This module knows no file: [`bbolt_read`] reads the buckets.

use std::collections::BTreeMap;

use bbolt_read::{Bucket, Damage, Entry, ReadAt, Snapshot, Value};
use go_compat::quote::quote;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::api::content::Info;
use crate::model::image::{self, Image};

/// The bucket of all namespaces.
pub(crate) const ROOT: &[u8] = b"v1";

/// The bucket of a namespace's images.
pub(crate) const IMAGES: &[u8] = b"images";

/// The bucket of the labels of a namespace, an image or a blob.
pub(crate) const LABELS: &[u8] = b"labels";

/// The path from a namespace to its blobs.
pub(crate) const BLOBS: [&[u8]; 2] = [b"content", b"blob"];

/// Seconds from Go's zero time, the year 1, to the Unix epoch, 1970.
const GO_ZERO_TO_UNIX_SECONDS: i64 = 62_135_596_800;

/// A time that was never set. containerd reads a missing time as Go's zero time.
fn never() -> Timestamp {
    Timestamp { seconds: -GO_ZERO_TO_UNIX_SECONDS, ..Timestamp::default() }
}

/// Decodes the image of a bucket. `page` is the page of the bucket's entry, for errors. Calls `unknown` with
/// each key that this version does not know, and with the name of the record that has the key.
///
/// # Errors
/// The damage. containerd stores only valid images, so an invalid image counts as damaged.
pub(crate) fn image<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    name: &[u8],
    page: u64,
    bucket: &Bucket,
    unknown: &mut dyn FnMut(&str, &[u8]),
) -> Result<Image, Damage> {
    let mut image = Image { name: text(name, page)?, ..Image::default() };
    let (mut created, mut updated) = (never(), never());
    let mut target = None;
    let mut annotations = BTreeMap::new();
    for entry in snapshot.entries(bucket) {
        let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
        match (key.as_slice(), value) {
            (b"createdat", Value::Bytes(bytes)) => created = time(&bytes, page)?,
            (b"updatedat", Value::Bytes(bytes)) => updated = time(&bytes, page)?,
            (LABELS, Value::Bucket(labels)) => image.labels = texts(snapshot, &labels)?,
            (b"annotations", Value::Bucket(bucket)) => annotations = texts(snapshot, &bucket)?,
            (b"target", Value::Bucket(bucket)) => target = Some(bucket),
            (other, _) => unknown("in an image:", other),
        }
    }
    let target = target.ok_or_else(|| Damage::new(page, "it has no target"))?;
    let into = image.target.mut_or_insert_default();
    into.annotations = annotations;
    for entry in snapshot.entries(&target) {
        let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
        match (key.as_slice(), value) {
            (b"digest", Value::Bytes(bytes)) => into.digest = text(&bytes, page)?,
            (b"mediatype", Value::Bytes(bytes)) => into.media_type = text(&bytes, page)?,
            (b"size", Value::Bytes(bytes)) => into.size = size(&bytes, page)?,
            (other, _) => unknown("in the target of an image:", other),
        }
    }
    image.created_at = MessageField::some(created);
    image.updated_at = MessageField::some(updated);
    image::validate(&image).map_err(|e| Damage::new(page, e.to_string()))?;
    Ok(image)
}

/// Decodes the blob of a bucket.
///
/// # Errors
/// The damage.
pub(crate) fn content<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    digest: &str,
    bucket: &Bucket,
) -> Result<Info, Damage> {
    let mut info = Info { digest: digest.to_owned(), ..Info::default() };
    let (mut created, mut updated) = (never(), never());
    for entry in snapshot.entries(bucket) {
        let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
        match (key.as_slice(), value) {
            (b"createdat", Value::Bytes(bytes)) => created = time(&bytes, page)?,
            (b"updatedat", Value::Bytes(bytes)) => updated = time(&bytes, page)?,
            (LABELS, Value::Bucket(labels)) => info.labels = texts(snapshot, &labels)?,
            (b"size", Value::Bytes(bytes)) => info.size = size(&bytes, page)?,
            // A later containerd has added the key: it may change the answer.
            (other, _) => {
                let shown = quote(truncated(other));
                return Err(Damage::new(page, format!("a blob has the unknown key {shown}")));
            }
        }
    }
    info.created_at = MessageField::some(created);
    info.updated_at = MessageField::some(updated);
    Ok(info)
}

/// Decodes the texts of a bucket, such as labels.
///
/// # Errors
/// The damage.
pub(crate) fn texts<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
) -> Result<BTreeMap<String, String>, Damage> {
    let mut texts = BTreeMap::new();
    for entry in snapshot.entries(bucket) {
        let Entry { key, value, page } = entry.map_err(|lost| lost.damage)?;
        let Value::Bytes(value) = value else {
            return Err(Damage::new(page, format!("{} is a bucket", quote(truncated(&key)))));
        };
        texts.insert(text(&key, page)?, text(&value, page)?);
    }
    Ok(texts)
}

fn size(bytes: &[u8], page: u64) -> Result<i64, Damage> {
    varint(bytes).ok_or_else(|| Damage::new(page, "its size is no number"))
}

/// The most bytes of a key in an error.
const MAX_SHOWN_BYTES: usize = 256;

/// The beginning of a key, for an error.
pub(crate) fn truncated(key: &[u8]) -> &[u8] {
    key.get(..MAX_SHOWN_BYTES).unwrap_or(key)
}

/// Decodes a text.
///
/// # Errors
/// The text is not UTF-8.
pub(crate) fn text(bytes: &[u8], page: u64) -> Result<String, Damage> {
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
