//! The store's journal: an entry with a right checksum around any bytes. One that is taken for an
//! entry is the same when it is written again, and what it changes is what the changes say.
//!
//! ```text
//! 0    0: the bytes are taken as they are; else they are what is under the checksum
//! ..   the bytes
//! ```

use std::collections::BTreeMap;

use lmdb_images::store::journal::entry::{JournalEntry, MAGIC, sign};
use lmdb_images::store::journal::overlay::Overlay;

use super::Input;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = Vec::new();
    if input.byte() != 0 {
        bytes.extend(MAGIC);
        bytes.extend([0; 8]);
    }
    bytes.extend(input.0);
    if bytes.starts_with(MAGIC) {
        sign(&mut bytes);
    }
    let Some((entry, length)) = JournalEntry::decode(&bytes) else { return };
    // An entry of schema 3 has no base, and is only read.
    if entry.base.is_some() {
        assert_eq!(entry.encode().as_deref(), bytes.get(..length));
    }
    let mut expected = BTreeMap::new();
    for (table, key, value) in entry.batch.iter() {
        expected.insert((table as u8, key), value);
    }
    let recent = Overlay::replay([&entry.batch]);
    let found = recent.writes().map(|(table, key, value)| ((table as u8, key), value));
    assert!(found.eq(expected));
}
