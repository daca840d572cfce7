//! The first sector of the journal: which store it belongs to, and which checkpoint its entries follow.
//!
//! ```text
//! 0..8      "lmdbimjh"
//! 8..12     512, the length of the header, u32 little-endian, as all numbers here
//! 12..16    CRC-32 (IEEE) of all that follows
//! 16..20    version of the format, 2
//! 20..24    length of the file
//! 24..32    the checkpoint
//! 32..68    UUID of the store, as text
//! 68..512   zeros
//! ```

use super::entry::{UUID_BYTES, checksum, sign};
use super::layout::{LENGTH, SECTOR};

const MAGIC: &[u8; 8] = b"lmdbimjh";
const VERSION: u32 = 2;

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The checkpoint that the file's entries follow.
    pub(crate) checkpoint: u64,
    /// The store that the file belongs to.
    pub(crate) uuid: String,
}

impl Header {
    /// The header as bytes; `None` if the UUID has another length than a UUID.
    pub(crate) fn encode(&self) -> Option<[u8; SECTOR]> {
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.extend(MAGIC);
        bytes.extend([0; 8]);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::try_from(LENGTH).ok()?.to_le_bytes());
        bytes.extend(self.checkpoint.to_le_bytes());
        bytes.extend(Some(self.uuid.as_bytes()).filter(|uuid| uuid.len() == UUID_BYTES)?);
        bytes.resize(SECTOR, 0);
        sign(&mut bytes);
        bytes.try_into().ok()
    }

    /// The header at the start of `bytes`; `None` if it is missing or damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let sector = bytes.get(..SECTOR)?;
        let (length, rest) = sector.strip_prefix(MAGIC)?.split_first_chunk()?;
        let (sum, signed) = rest.split_first_chunk()?;
        let (version, rest) = signed.split_first_chunk()?;
        let (file, rest) = rest.split_first_chunk()?;
        let (checkpoint, rest) = rest.split_first_chunk()?;
        let uuid = std::str::from_utf8(rest.get(..UUID_BYTES)?).ok()?.to_owned();
        let is_whole = u32::from_le_bytes(*sum) == checksum(signed)
            && u32::from_le_bytes(*length) as usize == SECTOR
            && u32::from_le_bytes(*version) == VERSION
            && u32::from_le_bytes(*file) as usize == LENGTH;
        is_whole.then(|| Self { checkpoint: u64::from_le_bytes(*checkpoint), uuid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let header = Header { checkpoint: 41, uuid: "u".repeat(UUID_BYTES) };
        let bytes = header.encode().unwrap();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..SECTOR * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged), None, "bit {bit}");
        }
    }
}
