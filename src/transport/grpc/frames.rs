//! The frames in the bytes of an HTTP/2 client, as far as the server limits them: HEADERS frames, which
//! begin calls, and small DATA frames.
//!
//! ```text
//! frame   0..3 length of the payload   3 type   4 flags   5..9 stream   9.. payload
//! ```

use std::collections::HashMap;

/// The frame that begins a call.
pub const FRAME_HEADERS: u8 = 1;

/// The frame that carries data.
pub const FRAME_DATA: u8 = 0;

/// The frame with which a client gives up a stream.
const FRAME_RESET: u8 = 3;

/// The flag of the last DATA frame of a stream.
const END_STREAM: u8 = 1;

/// A DATA frame below this many bytes is small.
const SMALL_FRAME_BYTES: usize = 256;

/// The small DATA frames that a stream may have, beside one for each of these bytes in large ones.
const MAX_SMALL_FRAMES: usize = 16;
const BYTES_PER_SMALL_FRAME: usize = 1 << 10;

/// The streams with small frames that a client may leave open: more than it may have calls in flight.
const MAX_OPEN: usize = 8192;

/// Finds the frames in a stream of bytes.
#[derive(Default)]
pub struct H2FrameScanner {
    head: [u8; 9],
    /// The number of bytes in `head` that have been read.
    known: usize,
    /// The number of bytes to skip.
    left: usize,
    small: SmallFrames,
}

impl H2FrameScanner {
    /// A scanner of a stream whose first `preface` bytes are no frames.
    pub fn after(preface: usize) -> Self {
        Self { left: preface, ..Self::default() }
    }

    /// Whether a stream may have any number of small DATA frames.
    pub fn allow_small_frames(&mut self, are_allowed: bool) {
        self.small.are_allowed = are_allowed;
    }

    /// Whether a stream has more small DATA frames than it may have.
    pub fn has_too_many_small_frames(&self) -> bool {
        self.small.are_too_many
    }

    /// Returns the number of HEADERS frames in the next bytes, and the number of data bytes.
    pub fn scan(&mut self, mut bytes: &[u8]) -> (usize, usize) {
        let (mut heads, mut data) = (0, 0);
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.known == self.head.len() && self.kind() == FRAME_DATA {
                data += skipped;
            }
            if self.left > 0 {
                return (heads, data);
            }
            self.known %= self.head.len();
            while let Some(to) = self.head.get_mut(self.known) {
                let Some((byte, rest)) = bytes.split_first() else { return (heads, data) };
                *to = *byte;
                self.known += 1;
                bytes = rest;
            }
            let [high, middle, low, kind, flags, stream @ ..] = self.head;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            heads += usize::from(kind == FRAME_HEADERS);
            self.small.count(kind, flags, u32::from_be_bytes(stream), self.left);
        }
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }
}

/// Counts the small DATA frames of the streams that have some.
///
/// The HTTP/2 library keeps some hundred bytes for each frame that is not read yet, so a window full of
/// frames of one byte takes far more memory than the window says. A client cuts a message into frames as
/// large as it may, so that a stream has few small ones.
#[derive(Default)]
struct SmallFrames {
    streams: HashMap<u32, StreamFrames>,
    are_allowed: bool,
    are_too_many: bool,
}

/// The DATA frames of one stream.
#[derive(Default)]
struct StreamFrames {
    small: usize,
    bytes: usize,
}

impl SmallFrames {
    fn count(&mut self, kind: u8, flags: u8, stream: u32, length: usize) {
        match kind {
            _ if self.are_allowed => {}
            FRAME_RESET => drop(self.streams.remove(&stream)),
            FRAME_DATA if flags & END_STREAM != 0 => drop(self.streams.remove(&stream)),
            FRAME_DATA if length < SMALL_FRAME_BYTES => {
                let frames = self.streams.entry(stream).or_default();
                frames.small += 1;
                let allowed = MAX_SMALL_FRAMES + frames.bytes / BYTES_PER_SMALL_FRAME;
                self.are_too_many |= frames.small > allowed || self.streams.len() > MAX_OPEN;
            }
            FRAME_DATA => {
                if let Some(frames) = self.streams.get_mut(&stream) {
                    frames.bytes += length;
                }
            }
            _ => {}
        }
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
    fn heads_are_counted_however_the_bytes_are_cut() {
        let parts = [
            vec![7; 24],
            frame(FRAME_HEADERS, 30),
            frame(FRAME_DATA, 100),
            frame(4, 0),
            frame(FRAME_HEADERS, 0),
        ];
        let bytes = [parts.concat(), frame(9, 5), frame(FRAME_HEADERS, 1)].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut frames = H2FrameScanner::after(24);
            let (one, other) = (frames.scan(first), frames.scan(second));
            assert_eq!((one.0 + other.0, one.1 + other.1), (3, 100), "cut at {cut}");
        }
    }

    #[test]
    fn a_stream_of_many_small_frames_is_noticed() {
        let are_too_many = |frames: &[(u8, u8, u32, usize)]| {
            let mut small = SmallFrames::default();
            for (kind, flags, stream, length) in frames {
                small.count(*kind, *flags, *stream, *length);
            }
            small.are_too_many
        };
        let (data, last) =
            (|stream, length| (FRAME_DATA, 0, stream, length), (FRAME_DATA, 1, 1, 1));
        assert!(!are_too_many(&[data(1, 1); MAX_SMALL_FRAMES]));
        assert!(are_too_many(&[data(1, 1); MAX_SMALL_FRAMES + 1]));
        let two_streams: Vec<_> =
            (0..2 * MAX_SMALL_FRAMES).map(|n| data(n as u32 % 2, 1)).collect();
        assert!(!are_too_many(&two_streams));
        for end in [last, (FRAME_RESET, 0, 1, 4)] {
            let one = [vec![data(1, 1); MAX_SMALL_FRAMES], vec![end]].concat();
            assert!(!are_too_many(&one.repeat(3)), "each call has its own");
        }
        let upload: Vec<_> = (0..1000).flat_map(|_| [data(1, 8 << 10), data(1, 3)]).collect();
        assert!(!are_too_many(&upload), "a window that ends in a message cuts it");
        let left_open: Vec<_> = (0..=MAX_OPEN).map(|n| data(n as u32, 1)).collect();
        assert!(are_too_many(&left_open));
    }
}
