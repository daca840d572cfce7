//! Counts the fields of a ttrpc request while the server reads its bytes.
//!
//! The library decodes the envelope around the message: service, method and metadata. An entry of
//! metadata can be as short as two bytes, and takes many times as much memory once decoded. No client
//! sends many entries.

/// The most fields of a request: entries of metadata, and the few other fields.
const MAX_FIELDS: u32 = 128;

/// Counts the fields of one request.
#[derive(Debug, Default)]
pub(crate) struct FieldCounter {
    fields: u32,
    at: Position,
    number: u64,
    shift: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// In a tag.
    #[default]
    Tag,
    /// In a number.
    Number,
    /// In the length of what comes next.
    Length,
    /// In a payload, with this many bytes left to skip.
    Bytes(u64),
    /// In bytes that are not a message. The library refuses the request.
    Nowhere,
}

impl FieldCounter {
    /// Scans the next bytes of the request. Returns whether the count is within [`MAX_FIELDS`].
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((byte, rest)) = bytes.split_first() {
            if let Position::Bytes(left) = self.at {
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = bytes.get(count..).unwrap_or_default();
                self.skip(left - count as u64);
                continue;
            }
            bytes = rest;
            if self.at == Position::Nowhere {
                break;
            }
            self.number |= u64::from(byte & 0x7f).checked_shl(self.shift).unwrap_or_default();
            self.shift += 7;
            if *byte >= 0x80 {
                if self.shift > 63 {
                    self.at = Position::Nowhere;
                }
                continue;
            }
            let number = std::mem::take(&mut self.number);
            self.shift = 0;
            match self.at {
                Position::Length => self.skip(number),
                Position::Tag => self.field(number),
                _ => self.at = Position::Tag,
            }
        }
        self.fields <= MAX_FIELDS
    }

    fn field(&mut self, tag: u64) {
        self.fields = self.fields.saturating_add(1);
        match tag & 7 {
            _ if tag < 8 => self.at = Position::Nowhere,
            0 => self.at = Position::Number,
            1 => self.skip(8),
            2 => self.at = Position::Length,
            5 => self.skip(4),
            _ => self.at = Position::Nowhere,
        }
    }

    fn skip(&mut self, count: u64) {
        self.at = if count == 0 { Position::Tag } else { Position::Bytes(count) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;
    use ttrpc::proto::{KeyValue, Request};

    fn request(metadata: usize) -> Vec<u8> {
        let request = Request {
            service: "a service".into(),
            method: "a method".into(),
            payload: vec![0x0a; 1000],
            timeout_nano: 1 << 40,
            metadata: vec![KeyValue::default(); metadata],
            ..Default::default()
        };
        request.write_to_bytes().unwrap()
    }

    #[test]
    fn fields_are_counted_however_the_bytes_are_cut() {
        for (metadata, fine) in [(0, true), (124, true), (125, false)] {
            let bytes = request(metadata);
            for cut in 0..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                let mut envelope = FieldCounter::default();
                let taken = envelope.feed(first) && envelope.feed(second);
                assert_eq!((taken, envelope.fields), (fine, 4 + metadata as u32), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_malformed_envelope_is_not_counted() {
        for bytes in [[0x0b; 3000], [0xff; 3000], [0x07; 3000], [0; 3000]] {
            assert!(FieldCounter::default().feed(&bytes));
        }
    }
}
