//! A stored value: a header of eight bytes, then an encoded message as it goes over the wire.
//!
//! ```text
//! 0      format, 1
//! 1..4   zero
//! 4..8   CRC-32 (IEEE) of the key and the message, little-endian
//! 8..    the message
//! ```
//!
//! LMDB has no checksums of its own. That the key is under the checksum shows a value that
//! came to lie under another name.

use crc32fast::Hasher;

/// Bytes before the message.
pub const HEADER: usize = 8;

const FORMAT: [u8; 4] = [1, 0, 0, 0];

/// A value that is not what was written: of a format unknown here, or with a wrong checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// The value that holds `message` under `key`.
pub fn seal(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + message.len());
    value.extend_from_slice(&FORMAT);
    value.extend_from_slice(&checksum(key, message).to_le_bytes());
    value.extend_from_slice(message);
    value
}

/// The message of the `value` under `key`, when it is the one that was sealed.
pub fn unseal<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Damaged> {
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
    fn what_was_sealed_comes_back() {
        for message in [&b""[..], b"x", &[0; 5000]] {
            assert_eq!(unseal(b"k", &seal(b"k", message)), Ok(message));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let value = seal(b"key", b"message");
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"key", &damaged), Err(Damaged), "bit {bit}");
        }
        for length in 0..value.len() {
            assert_eq!(unseal(b"key", &value[..length]), Err(Damaged), "length {length}");
        }
        assert_eq!(unseal(b"kez", &value), Err(Damaged));
    }
}
