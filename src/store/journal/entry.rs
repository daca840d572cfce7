//! An entry of the journal: the changes of one batch, as bytes.
//!
//! ```text
//! 0..8      "lmdbimj2"
//! 8..12     length of the entry, u32 little-endian, as all numbers here
//! 12..16    CRC-32 (IEEE) of all that follows
//! 16..24    the checkpoint that the entry follows
//! 24..32    the LMDB transaction of that checkpoint
//! 32..36    the entry's number since that checkpoint, from 0
//! 36..72    UUID of the store, as text
//! 72..      changes: u8 database, u8 1 for "put" and 0 for "delete", u16 length of the key, u32 length
//!           of the value; the key, the value
//! ```
//!
//! Stores of schema 3 have entries that begin with "lmdbimj1" and lack the transaction.

use crc32fast::Hasher;

use crate::store::schema::table::{Op, Table};

/// Bytes before the changes.
pub(crate) const HEADER_BYTES: usize = 72;

/// The first bytes of an entry.
pub const MAGIC: &[u8; 8] = b"lmdbimj2";

/// The first bytes of an entry in a store of schema 3.
const MAGIC_V1: &[u8; 8] = b"lmdbimj1";

/// Bytes of a UUID as text.
pub(crate) const UUID_BYTES: usize = 36;
/// Bytes before the key of a change.
const CHANGE_HEADER_BYTES: usize = 8;

/// Writes in order, encoded as in an entry. When they grow larger than an entry may be, the batch drops them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    max_bytes: usize,
    has_overflowed: bool,
}

impl WriteBatch {
    /// An empty batch that keeps up to `max_bytes` bytes of writes.
    pub fn new(max_bytes: usize) -> Self {
        Self { bytes: Vec::new(), max_bytes, has_overflowed: false }
    }

    /// Adds a write.
    pub fn push(&mut self, (table, key, value): Op<'_>) {
        let length = value.unwrap_or_default().len();
        let all = CHANGE_HEADER_BYTES.saturating_add(key.len()).saturating_add(length);
        let lengths = (u16::try_from(key.len()), u32::try_from(length));
        let ((Ok(key_length), Ok(length)), true) = (
            lengths,
            !self.has_overflowed && self.bytes.len().saturating_add(all) <= self.max_bytes,
        ) else {
            self.has_overflowed = true;
            self.bytes = Vec::new();
            return;
        };
        self.bytes.extend([table as u8, u8::from(value.is_some())]);
        self.bytes.extend(key_length.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(key);
        self.bytes.extend(value.unwrap_or_default());
    }

    /// Whether the batch has no writes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.has_overflowed
    }

    /// Whether the writes were more than an entry holds, so that the batch has dropped them.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// A savepoint to [roll back to](Self::rollback_to).
    pub(crate) fn savepoint(&self) -> usize {
        self.bytes.len()
    }

    /// Removes the writes since the savepoint. A batch that has overflowed stays so.
    pub(crate) fn rollback_to(&mut self, savepoint: usize) {
        self.bytes.truncate(savepoint);
    }

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Op<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (op, behind) = op(rest)?;
            rest = behind;
            Some(op)
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = op(rest)?;
        }
        Some(Self { bytes: bytes.to_vec(), max_bytes: bytes.len(), has_overflowed: false })
    }
}

fn op(bytes: &[u8]) -> Option<(Op<'_>, &[u8])> {
    let (&[table, put, k0, k1, v0, v1, v2, v3], rest) =
        bytes.split_first_chunk::<CHANGE_HEADER_BYTES>()?;
    let (key, rest) = rest.split_at_checked(u16::from_le_bytes([k0, k1]).into())?;
    let (value, rest) =
        rest.split_at_checked(u32::from_le_bytes([v0, v1, v2, v3]).try_into().ok()?)?;
    let value = match put {
        0 if value.is_empty() => None,
        1 => Some(value),
        _ => return None,
    };
    Some(((Table::from_number(table)?, key, value), rest))
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The checkpoint that the entry follows.
    pub checkpoint: u64,
    /// The LMDB transaction of that checkpoint; unknown in an entry of schema 3.
    pub base: Option<u64>,
    /// The entry's number among those that follow that checkpoint, from 0.
    pub number: u32,
    /// The store that the entry belongs to.
    pub uuid: String,
    /// The changes.
    pub batch: WriteBatch,
}

impl JournalEntry {
    /// The entry as bytes. `None` if its changes were too many to be kept, if its UUID has another
    /// length, or if its base is unknown.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.uuid.len() != UUID_BYTES || self.batch.has_overflowed() {
            return None;
        }
        let length = HEADER_BYTES.checked_add(self.batch.bytes.len())?;
        u32::try_from(length).ok()?;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(MAGIC);
        bytes.extend([0; 8]);
        bytes.extend(self.checkpoint.to_le_bytes());
        bytes.extend(self.base?.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.uuid.as_bytes());
        bytes.extend(&self.batch.bytes);
        sign(&mut bytes);
        Some(bytes)
    }

    /// Whether an entry of any version may begin here.
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC) || bytes.starts_with(MAGIC_V1)
    }

    /// The entry at the start of `bytes`, of any version, with its length. `None` if there is none, or
    /// not all of it.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let has_base = match magic {
            MAGIC => true,
            MAGIC_V1 => false,
            _ => return None,
        };
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (sum, _) = rest.split_first_chunk()?;
        let rest = bytes.get(16..length)?;
        if u32::from_le_bytes(*sum) != checksum(rest) {
            return None;
        }
        let (checkpoint, rest) = rest.split_first_chunk()?;
        let (base, rest) = match rest.split_first_chunk().filter(|_| has_base) {
            Some((base, rest)) => (Some(u64::from_le_bytes(*base)), rest),
            None => (None, rest),
        };
        let (number, rest) = rest.split_first_chunk()?;
        let (uuid, changes) = rest.split_at_checked(UUID_BYTES)?;
        let entry = Self {
            checkpoint: u64::from_le_bytes(*checkpoint),
            base,
            number: u32::from_le_bytes(*number),
            uuid: std::str::from_utf8(uuid).ok()?.to_owned(),
            batch: WriteBatch::read(changes)?,
        };
        Some((entry, length))
    }
}

/// Writes the length and the checksum of an entry, or of a header, into its first 16 bytes.
pub fn sign(entry: &mut [u8]) {
    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    let sum = checksum(entry.get(16..).unwrap_or_default());
    if let Some((_, [l0, l1, l2, l3, s0, s1, s2, s3, ..])) = entry.split_at_mut_checked(8) {
        [*l0, *l1, *l2, *l3] = length.to_le_bytes();
        [*s0, *s1, *s2, *s3] = sum.to_le_bytes();
    }
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> JournalEntry {
        let mut changes = WriteBatch::new(58);
        changes.push((Table::Records, b"key", Some(b"value")));
        changes.push((Table::Index, b"entry", Some(b"")));
        changes.push((Table::Expiring, b"key", None));
        JournalEntry {
            checkpoint: 41,
            base: Some(7),
            number: 2,
            uuid: "u".repeat(UUID_BYTES),
            batch: changes,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let entry = entry();
        let mut bytes = entry.encode().unwrap();
        let length = bytes.len();
        bytes.extend(b"behind");
        let (found, end) = JournalEntry::decode(&bytes).unwrap();
        assert_eq!((end, found.batch.bytes.len()), (length, 40));
        assert_eq!((found.checkpoint, found.base, found.number), (41, Some(7), 2));
        assert_eq!(found.uuid, entry.uuid);
        let ops: Vec<_> = found.batch.iter().collect();
        assert_eq!(
            ops,
            [
                (Table::Records, &b"key"[..], Some(&b"value"[..])),
                (Table::Index, b"entry", Some(b"")),
                (Table::Expiring, b"key", None)
            ]
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = entry().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(JournalEntry::decode(&damaged), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(JournalEntry::decode(&bytes[..length]), None, "length {length}");
        }
    }

    #[test]
    fn an_entry_of_schema_3_is_read_and_has_no_base() {
        let whole = entry().encode().unwrap();
        let mut old = whole[..24].to_vec();
        old.extend(&whole[32..]);
        old[..8].copy_from_slice(MAGIC_V1);
        sign(&mut old);
        let (found, length) = JournalEntry::decode(&old).unwrap();
        assert_eq!((length, found.base), (old.len(), None));
        assert!(found.batch.iter().eq(entry().batch.iter()));
    }

    #[test]
    fn a_batch_that_is_too_large_overflows_and_takes_no_memory() {
        let mut changes = entry().batch;
        let mark = changes.savepoint();
        changes.push((Table::Records, b"key", Some(b"valu")));
        assert!(!changes.has_overflowed());
        changes.rollback_to(mark);
        assert_eq!(changes, entry().batch);
        changes.push((Table::Records, b"key", Some(b"a longer value")));
        assert!(changes.has_overflowed() && changes.bytes.capacity() == 0);
        changes.push((Table::Records, b"k", None));
        assert!(changes.has_overflowed() && changes.iter().next().is_none());
        assert_eq!(JournalEntry { batch: changes, ..entry() }.encode(), None);
    }
}
