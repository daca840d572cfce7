//! A containerd's file, damaged, through the live reader: each read ends, and what a walk meets is what
//! a lookup finds.

use bbolt_read::{Bucket, Damage, LiveError, LiveReader, Snapshot, Value};

use super::bolt::files;
use super::{Input, patched};

/// Buckets in one another that are walked.
const MAX_DEPTH: usize = 8;
/// Entries that are walked. All files hold fewer, but a loop in the pages would make more.
const MAX_ENTRIES: usize = 10_000;

/// The input is a file and its patches.
pub fn run(data: &[u8]) {
    let file = patched(files(), Input(data));
    let Ok(reader) = LiveReader::new(file.as_slice()) else { return };
    let read = reader.read(|snapshot| {
        let mut entries_left = MAX_ENTRIES;
        walk(snapshot, &snapshot.root(), MAX_DEPTH, &mut entries_left)?;
        snapshot.value(&[b"v1", b"one", b"images", b"hello", b"target"], b"digest")
    });
    match read {
        Ok(read) => assert_eq!(read.tries, 1),
        Err(LiveError::Damaged(damage)) => assert!(!damage.what.is_empty()),
        Err(other) => panic!("the file does not change: {other}"),
    }
}

fn walk(
    snapshot: &Snapshot<'_, &[u8]>,
    bucket: &Bucket,
    depth: usize,
    entries_left: &mut usize,
) -> Result<(), Damage> {
    for entry in snapshot.entries(bucket) {
        let entry = entry?;
        assert!(*entries_left > 0, "the same pages are read again and again");
        *entries_left -= 1;
        assert_eq!(snapshot.get(bucket, &entry.key)?.as_ref(), Some(&entry.value));
        if let Value::Bucket(inner) = &entry.value
            && depth > 0
        {
            walk(snapshot, inner, depth - 1, entries_left)?;
        }
    }
    Ok(())
}
