//! The reads: one record, or some images in order, each read whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;

use bbolt_read::{Bucket, Damage, ReadAt, Snapshot, Value};

use crate::expectation::Expectation;

/// The most entries of a walk.
const MAX_WALK_ENTRIES: usize = 20;

/// The file; with `frozen`, its meta pages are read once and then remembered until `forget`.
pub struct Source {
    pub file: File,
    pub frozen: Option<RefCell<HashMap<u64, Vec<u8>>>>,
}

impl Source {
    pub fn forget(&self) {
        if let Some(frozen) = &self.frozen {
            frozen.borrow_mut().clear();
        }
    }
}

impl ReadAt for Source {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // The reader reads 80 bytes of a meta page, and all of any other.
        let Some(frozen) = self.frozen.as_ref().filter(|_| buffer.len() == 80) else {
            return self.file.read_at(buffer, offset);
        };
        let mut frozen = frozen.borrow_mut();
        if let Some(remembered) = frozen.get(&offset) {
            buffer.copy_from_slice(remembered);
            return Ok(());
        }
        self.file.read_at(buffer, offset)?;
        frozen.insert(offset, buffer.to_vec());
        Ok(())
    }
}

fn bytes<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
    key: &str,
) -> Result<String, Damage> {
    match snapshot.get(bucket, key.as_bytes())? {
        Some(Value::Bytes(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        other => Err(Damage::new(0, format!("{key} is {other:?}"))),
    }
}

fn bucket<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
    key: &str,
) -> Result<Bucket, Damage> {
    match snapshot.get(bucket, key.as_bytes())? {
        Some(Value::Bucket(bucket)) => Ok(bucket),
        other => Err(Damage::new(0, format!("{key} is {other:?}"))),
    }
}

fn number(text: &str, radix: u32) -> Result<u64, Damage> {
    u64::from_str_radix(text, radix).map_err(|e| Damage::new(0, format!("{text}: {e}")))
}

/// The number that an image shows at three places, in buckets of their own.
fn image_number<S: ReadAt>(snapshot: &Snapshot<'_, S>, image: &Bucket) -> Result<u64, Damage> {
    let target = bucket(snapshot, image, "target")?;
    let label = bytes(snapshot, &bucket(snapshot, image, "labels")?, "number")?;
    let digest = bytes(snapshot, &target, "digest")?;
    let media_type = bytes(snapshot, &target, "mediatype")?;
    let shown = [
        number(&label, 10)?,
        number(digest.trim_start_matches("sha256:"), 16)?,
        number(media_type.trim_start_matches("application/x-"), 10)?,
    ];
    if shown.iter().any(|n| *n != shown[0]) {
        return Err(Damage::new(0, format!("one image of three operations: {shown:?}")));
    }
    Ok(shown[0])
}

pub fn record<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    expected: &Expectation,
) -> Result<Option<u64>, Damage> {
    let namespace = expected.namespace.as_bytes();
    let Some(image) = &expected.image else {
        let labels = snapshot.value(&[b"v1", namespace, b"labels"], b"number")?;
        return labels.map(|text| number(&String::from_utf8_lossy(&text), 10)).transpose();
    };
    let path: [&[u8]; 4] = [b"v1", namespace, b"images", image.as_bytes()];
    let found = snapshot.bucket(&path)?;
    found.map(|bucket| image_number(snapshot, &bucket)).transpose()
}

/// Some images from this one on, each whole, in order of names.
pub fn walk<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    expected: &Expectation,
) -> Result<usize, Damage> {
    let path: [&[u8]; 3] = [b"v1", expected.namespace.as_bytes(), b"images"];
    let Some(images) = snapshot.bucket(&path)? else { return Ok(0) };
    let from = expected.image.as_deref().unwrap_or_default().as_bytes();
    let (mut last, mut count) = (Vec::new(), 0);
    for entry in snapshot.entries_from(&images, from).take(MAX_WALK_ENTRIES) {
        let entry = entry?;
        let Value::Bucket(image) = &entry.value else {
            return Err(Damage::new(entry.page, "an image is no bucket"));
        };
        image_number(snapshot, image)?;
        if entry.key.as_slice() < from || entry.key <= last {
            return Err(Damage::new(entry.page, "out of order"));
        }
        last = entry.key;
        count += 1;
    }
    Ok(count)
}
