//! The frames in a stream of bytes, however the bytes are cut.
//!
//! ```text
//! frame   0..4 length of the payload   4..8 stream   8 type   9 flags   10.. payload
//! ```

use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MessageHeader};

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    raw: [u8; MESSAGE_HEADER_LENGTH],
    /// The number of bytes in `raw` that have been read.
    known: usize,
    /// The head of the frame that was begun last.
    pub(super) head: MessageHeader,
    /// The bytes of the payload that are still to come.
    left: usize,
}

/// An event in a stream of frames.
pub(super) enum Event<'b> {
    /// The head of a frame is complete.
    Head(MessageHeader),
    /// A part of the payload.
    Part(&'b [u8]),
    /// The frame is complete.
    End(MessageHeader),
}

impl FrameScanner {
    /// Whether the stream is between two frames.
    pub(super) fn is_between(&self) -> bool {
        self.known == 0
    }

    /// Consumes bytes from the start of `bytes` until the next event, or until none is left.
    pub(super) fn take<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Event<'b>> {
        if self.known < MESSAGE_HEADER_LENGTH {
            while self.known < MESSAGE_HEADER_LENGTH {
                let (byte, rest) = bytes.split_first()?;
                *self.raw.get_mut(self.known)? = *byte;
                self.known += 1;
                *bytes = rest;
            }
            self.head = MessageHeader::from(self.raw);
            self.left = self.head.length as usize;
            return Some(Event::Head(self.head));
        }
        if self.left == 0 {
            self.known = 0;
            return Some(Event::End(self.head));
        }
        let (part, rest) = bytes.split_at_checked(self.left.min(bytes.len()))?;
        *bytes = rest;
        self.left -= part.len();
        (!part.is_empty()).then_some(Event::Part(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(frames: &mut FrameScanner, mut bytes: &[u8]) -> Vec<(bool, u32)> {
        std::iter::from_fn(|| frames.take(&mut bytes))
            .filter_map(|event| match event {
                Event::Head(head) => Some((true, head.stream_id)),
                Event::End(head) => Some((false, head.stream_id)),
                Event::Part(_) => None,
            })
            .collect()
    }

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let mut bytes = Vec::new();
        for (stream, length) in [(1, 0), (3, 5), (5, 1)] {
            bytes.extend(Vec::<u8>::from(MessageHeader::new_request(stream, length)));
            bytes.extend(vec![0xff; length as usize]);
        }
        let expected = [(true, 1), (false, 1), (true, 3), (false, 3), (true, 5), (false, 5)];
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut frames = FrameScanner::default();
            let mut seen = events(&mut frames, first);
            seen.extend(events(&mut frames, second));
            assert_eq!(seen, expected, "cut at {cut}");
            assert!(frames.is_between());
        }
    }
}
