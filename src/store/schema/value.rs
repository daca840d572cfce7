//! A stored value: a header of eight bytes, then the message in its protobuf encoding.
//!
//! ```text
//! 0      version of this format: 1
//! 1..4   zero
//! 4..8   CRC-32 (IEEE) of the key and the message, little-endian
//! 8..    the message
//! ```
//!
//! The header has a checksum because LMDB has none. The checksum also covers the key. So a value that is
//! found under a wrong key is recognized as damaged.

use crc32fast::Hasher;

/// Length of the header in bytes.
pub const HEADER: usize = 8;

const FORMAT: [u8; 4] = [1, 0, 0, 0];

/// The value is damaged: its format is unknown or its checksum is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// Encodes the value that stores `message` under `key`.
pub fn encode(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + message.len());
    value.extend_from_slice(&FORMAT);
    value.extend_from_slice(&checksum(key, message).to_le_bytes());
    value.extend_from_slice(message);
    value
}

/// Returns the message of the `value` under `key`, if [`encode`] made that value for that key.
pub fn decode<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Damaged> {
    let (format, rest) = value.split_first_chunk::<4>().ok_or(Damaged)?;
    let (sum, message) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    if *format == FORMAT && u32::from_le_bytes(*sum) == checksum(key, message) {
        Ok(message)
    } else {
        Err(Damaged)
    }
}

fn checksum(key: &[u8], message: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(message);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_decodes_to_its_message() {
        for message in [&b""[..], b"x", &[0; 5000]] {
            assert_eq!(decode(b"k", &encode(b"k", message)), Ok(message));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let value = encode(b"key", b"message");
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(b"key", &damaged), Err(Damaged), "bit {bit}");
        }
        for length in 0..value.len() {
            assert_eq!(decode(b"key", &value[..length]), Err(Damaged), "length {length}");
        }
        assert_eq!(decode(b"kez", &value), Err(Damaged));
    }
}
