//! A limit on the request data that has arrived and that no call has read yet.
//!
//! The HTTP/2 library keeps each DATA frame until its call reads the frame. A call reads nothing while it
//! waits for memory, and a forwarded call reads nothing while containerd reads nothing. Flow control bounds
//! the bytes of one stream, not those of all streams, and not the number of frames: the library takes some
//! hundred bytes for a frame of one byte, and its table of unread frames never shrinks.
//!
//! So each connection has an account: the bytes of its unread data, and the largest number of frames that
//! were unread at one time. Each connection may have [`CONNECTION_BYTES`]. While the connections together
//! have more than [`MAX_UNREAD_BYTES`] beyond that, the server does not read a connection with more unread
//! data than that until its calls have read theirs. Connections with less are not concerned.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// The unread data of all connections together, beyond [`CONNECTION_BYTES`] of each. It has room for 24
/// uploads to a containerd that reads none of them, each with a window of 256 KiB: they must not stall other
/// calls of their connection.
const MAX_UNREAD_BYTES: usize = 7 << 20;

/// The unread data that each connection may always have, in bytes. A call reads only whole frames, so this
/// is the largest frame (16 KiB) and the overhead of a few.
const CONNECTION_BYTES: usize = 18 << 10;

/// Memory of the HTTP/2 library for an unread frame, beside the frame's data, in bytes.
const FRAME_OVERHEAD_BYTES: usize = 512;

/// The unread data of all connections. Clones share the account.
#[derive(Debug, Clone, Default)]
pub struct UnreadData(Arc<AtomicUsize>);

impl UnreadData {
    /// An account for one more connection.
    pub(crate) fn connection(&self) -> Arc<ConnectionUnreadData> {
        Arc::new(ConnectionUnreadData { all: self.clone(), own: Mutex::default() })
    }

    fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MAX_UNREAD_BYTES
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The unread data of one connection. Dropping the account gives all of it back.
#[derive(Debug)]
pub(crate) struct ConnectionUnreadData {
    all: UnreadData,
    own: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    bytes: usize,
    frames: usize,
    max_frames: usize,
    /// The reader of the connection, while it is paused.
    paused: Option<Waker>,
}

impl Account {
    /// Bytes that the account of all connections has of this connection.
    fn excess(&self) -> usize {
        (self.bytes + self.max_frames * FRAME_OVERHEAD_BYTES).saturating_sub(CONNECTION_BYTES)
    }

    fn is_small(&self) -> bool {
        self.bytes + self.frames * FRAME_OVERHEAD_BYTES <= CONNECTION_BYTES
    }
}

impl ConnectionUnreadData {
    /// Adds data that has arrived: its bytes, and the number of frames that begin in it.
    ///
    /// The padding of a frame is among the bytes and is never subtracted. No gRPC client pads frames.
    pub(crate) fn add(&self, bytes: usize, frames: usize) {
        if bytes == 0 && frames == 0 {
            return;
        }
        let mut own = self.own.lock();
        let before = own.excess();
        own.bytes += bytes;
        own.frames += frames;
        own.max_frames = own.max_frames.max(own.frames);
        self.all.add(own.excess() - before);
    }

    /// Subtracts a frame that a call has read.
    pub(crate) fn subtract(&self, bytes: usize) {
        let mut own = self.own.lock();
        let before = own.excess();
        own.bytes = own.bytes.saturating_sub(bytes);
        own.frames = own.frames.saturating_sub(1);
        self.all.subtract(before - own.excess());
        if let Some(reader) = own.paused.take() {
            reader.wake();
        }
    }

    /// Whether the connection must not be read now. If so, the next frame that a call reads wakes the task
    /// of `cx`. Nothing wakes the task when other connections release bytes, so it must call this again.
    pub(crate) fn poll_paused(&self, cx: &Context<'_>) -> bool {
        if !self.all.is_exhausted() {
            return false;
        }
        let mut own = self.own.lock();
        if own.is_small() {
            return false;
        }
        own.paused = Some(cx.waker().clone());
        true
    }
}

impl Drop for ConnectionUnreadData {
    fn drop(&mut self) {
        self.all.subtract(self.own.get_mut().excess());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_much_unread_data_is_paused_when_all_have_too_much() {
        let all = UnreadData::default();
        let (large, small) = (all.connection(), all.connection());
        let cx = Context::from_waker(Waker::noop());
        let frames = (MAX_UNREAD_BYTES + CONNECTION_BYTES) / (16 << 10);
        large.add(MAX_UNREAD_BYTES + CONNECTION_BYTES, frames);
        small.add(16 << 10, 1);
        assert!(large.poll_paused(&cx));
        assert!(!small.poll_paused(&cx), "a frame that has not arrived whole must arrive");
        for _ in 0..frames {
            large.subtract(16 << 10);
        }
        assert!(!large.poll_paused(&cx));
        large.add(1, 1);
        drop(large);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_frames_took_counts_until_the_connection_ends() {
        let all = UnreadData::default();
        let connections: Vec<_> = (0..16).map(|_| all.connection()).collect();
        let cx = Context::from_waker(Waker::noop());
        let bytes = MAX_UNREAD_BYTES / connections.len() + CONNECTION_BYTES;
        let frames = bytes / FRAME_OVERHEAD_BYTES + 1;
        for connection in &connections {
            assert!(!all.is_exhausted());
            connection.add(frames, frames);
            (0..frames).for_each(|_| connection.subtract(1));
        }
        assert!(all.is_exhausted());
        let next = all.connection();
        assert!(!next.poll_paused(&cx));
        next.add(100, 100);
        assert!(next.poll_paused(&cx));
        drop(connections);
        assert!(!next.poll_paused(&cx));
    }
}
