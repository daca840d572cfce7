//! How many calls have begun, on all connections together.
//!
//! A call takes memory before anything of it runs: its headers, its task, its place in the tables of
//! the protocol. Each connection may begin many; all together may begin so many that this stays
//! small. When that many have begun, a connection may still have its share, what each would have if
//! all had the same; who has more than that is not read until some of its calls have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many calls may have begun. The task of one takes some 7 KiB until it ends.
const MAX_IN_FLIGHT: usize = 4096;

/// Headers of so many bytes weigh as much as a call.
pub const HEADER_BYTES_PER_SLOT: usize = 4 << 10;

/// The calls of all connections. Clones count the same.
#[derive(Clone, Debug)]
pub struct Admission {
    all: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: AtomicUsize,
    connections: AtomicUsize,
    most: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(MAX_IN_FLIGHT)
    }
}

impl Admission {
    /// All connections together may have begun `most` calls.
    pub fn new(most: usize) -> Self {
        let all = Shared { calls: 0.into(), connections: 0.into(), most };
        Self { all: Arc::new(all) }
    }

    /// How many have begun and not ended.
    pub fn count(&self) -> usize {
        self.all.calls.load(Ordering::Relaxed)
    }

    /// One more connection.
    pub fn connection(&self) -> ConnectionAdmission {
        self.all.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionAdmission { all: Arc::clone(&self.all), calls: AtomicUsize::new(0) }
    }
}

/// The calls that one connection has begun. Dropped, they have ended.
#[derive(Debug)]
pub struct ConnectionAdmission {
    all: Arc<Shared>,
    calls: AtomicUsize,
}

impl ConnectionAdmission {
    /// Whether one more may begin: there is room, or it has less than its share, which is one at least.
    pub fn can_admit(&self) -> bool {
        let Shared { calls, connections, most } = &*self.all;
        let (all, mine) = (calls.load(Ordering::Relaxed), self.calls.load(Ordering::Relaxed));
        let share = *most / connections.load(Ordering::Relaxed).max(1);
        all < *most || mine < share.max(1)
    }

    /// Whether all connections together have begun as many as they may.
    pub fn is_saturated(&self) -> bool {
        self.all.calls.load(Ordering::Relaxed) >= self.all.most
    }

    /// A call of this weight, that of an ordinary one being 1, begins.
    pub fn admit(&self, weight: usize) {
        self.all.calls.fetch_add(weight, Ordering::Relaxed);
        self.calls.fetch_add(weight, Ordering::Relaxed);
    }

    /// A call ends that began with this weight.
    pub fn release(&self, weight: usize) {
        self.all.calls.fetch_sub(weight, Ordering::Relaxed);
        self.calls.fetch_sub(weight, Ordering::Relaxed);
    }
}

impl Drop for ConnectionAdmission {
    fn drop(&mut self) {
        self.all.calls.fetch_sub(*self.calls.get_mut(), Ordering::Relaxed);
        self.all.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_than_its_share_gets_no_more() {
        let all = Admission::new(100);
        let (greedy, modest) = (all.connection(), all.connection());
        while greedy.can_admit() {
            greedy.admit(1);
        }
        assert_eq!(greedy.calls.load(Ordering::Relaxed), 100, "alone it may have all");
        while modest.can_admit() {
            modest.admit(1);
        }
        assert_eq!(modest.calls.load(Ordering::Relaxed), 50);
        greedy.release(50);
        assert!(!greedy.can_admit());
        greedy.release(2);
        assert!(greedy.can_admit());
        drop(modest);
        greedy.admit(40);
        assert!(greedy.can_admit());
        drop(greedy);
        assert_eq!(all.count(), 0);
        assert_eq!(all.all.connections.load(Ordering::Relaxed), 0);
    }
}
