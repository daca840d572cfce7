//! Counts the frames that the server limits in the input of an HTTP/2 connection: HEADERS frames, which begin
//! calls, and DATA frames.
//!
//! ```text
//! frame   0..3 length of the payload   3 type   4 flags   5..9 stream   9.. payload
//! ```

/// The type of a HEADERS frame.
pub(crate) const FRAME_HEADERS: u8 = 1;

/// The type of a DATA frame.
pub(crate) const FRAME_DATA: u8 = 0;

/// The frames in a piece of the input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameCounts {
    /// The HEADERS frames that begin in the piece.
    pub(crate) headers_frames: usize,
    /// The DATA frames that begin in the piece and are not empty.
    pub(crate) data_frames: usize,
    /// The payload bytes of DATA frames.
    pub(crate) data_bytes: usize,
}

/// Finds the frames in a stream of bytes.
#[derive(Default)]
pub(crate) struct H2FrameScanner {
    head: [u8; 9],
    /// The number of bytes of `head` that have been read.
    head_bytes: usize,
    /// The number of payload bytes that are still to come.
    left: usize,
}

impl H2FrameScanner {
    /// A scanner of a stream whose first `preface` bytes are no frames.
    pub(crate) fn after(preface: usize) -> Self {
        Self { left: preface, ..Self::default() }
    }

    /// Counts the frames in the next bytes.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) -> FrameCounts {
        let mut scanned = FrameCounts::default();
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.head_bytes == self.head.len() && self.kind() == FRAME_DATA {
                scanned.data_bytes += skipped;
            }
            if self.left > 0 {
                return scanned;
            }
            self.head_bytes %= self.head.len();
            while let Some(to) = self.head.get_mut(self.head_bytes) {
                let Some((byte, rest)) = bytes.split_first() else { return scanned };
                *to = *byte;
                self.head_bytes += 1;
                bytes = rest;
            }
            let [high, middle, low, kind, ..] = self.head;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            scanned.headers_frames += usize::from(kind == FRAME_HEADERS);
            scanned.data_frames += usize::from(kind == FRAME_DATA && self.left > 0);
        }
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, head @ ..] = (length as u32).to_be_bytes();
        [&head[..], &[kind, 0, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    #[test]
    fn frames_are_counted_however_the_bytes_are_cut() {
        let parts = [
            vec![7; 24],
            frame(FRAME_HEADERS, 30),
            frame(FRAME_DATA, 100),
            frame(FRAME_DATA, 0),
            frame(4, 0),
            frame(FRAME_HEADERS, 0),
        ];
        let bytes = [parts.concat(), frame(9, 5), frame(FRAME_HEADERS, 1)].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut frames = H2FrameScanner::after(24);
            let (one, other) = (frames.scan(first), frames.scan(second));
            let both = FrameCounts {
                headers_frames: one.headers_frames + other.headers_frames,
                data_frames: one.data_frames + other.data_frames,
                data_bytes: one.data_bytes + other.data_bytes,
            };
            let expected = FrameCounts { headers_frames: 3, data_frames: 1, data_bytes: 100 };
            assert_eq!(both, expected, "cut at {cut}");
        }
    }
}
