//! Admission control: the calls in flight on all connections together are limited.
//!
//! A call takes memory before its handler runs: for its headers, its task and its entry in the
//! protocol's tables. The limit on calls in flight bounds this memory. At the limit, a connection
//! still gets its fair share, which is the limit divided by the number of connections. The server
//! does not read a connection that has its share until some of its calls have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limit on calls in flight. The task of one call takes some 7 KiB until the call ends.
const MAX_IN_FLIGHT: usize = 1536;

/// The limit on calls in flight on `containerd.sock`. The sum of memory in front of a containerd must not be
/// larger than that of a daemon alone, whose subscriptions take what these calls take.
const MAX_FORWARDED_IN_FLIGHT: usize = 1024;

/// Headers of this size weigh as much as one call.
pub(crate) const HEADER_BYTES_PER_SLOT: usize = 4 << 10;

/// The calls in flight on all connections. Clones share one count.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: AtomicUsize,
    connections: AtomicUsize,
    limit: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(MAX_IN_FLIGHT)
    }
}

impl Admission {
    /// The calls of `containerd.sock`, which may be many streams that stay open.
    pub fn forwarded() -> Self {
        Self::new(MAX_FORWARDED_IN_FLIGHT)
    }

    /// All connections together may have `limit` calls in flight.
    pub fn new(limit: usize) -> Self {
        let shared = Shared { calls: 0.into(), connections: 0.into(), limit };
        Self { shared: Arc::new(shared) }
    }

    /// The number of calls in flight.
    pub fn count(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Adds a connection.
    pub fn connection(&self) -> ConnectionAdmission {
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionAdmission { shared: Arc::clone(&self.shared), calls: AtomicUsize::new(0) }
    }
}

/// The calls in flight on one connection. Dropping the value releases all of them.
#[derive(Debug)]
pub struct ConnectionAdmission {
    shared: Arc<Shared>,
    calls: AtomicUsize,
}

impl ConnectionAdmission {
    /// Whether the connection may begin one more call: the server is below its limit, or the
    /// connection is below its fair share, which is at least one call.
    pub(crate) fn can_admit(&self) -> bool {
        let Shared { calls, connections, limit } = &*self.shared;
        let (total, own) = (calls.load(Ordering::Relaxed), self.calls.load(Ordering::Relaxed));
        let share = *limit / connections.load(Ordering::Relaxed).max(1);
        total < *limit || own < share.max(1)
    }

    /// Whether all connections together have reached the limit.
    pub(crate) fn is_saturated(&self) -> bool {
        self.shared.calls.load(Ordering::Relaxed) >= self.shared.limit
    }

    /// Begins a call of this weight. An ordinary call weighs 1.
    pub(crate) fn admit(&self, weight: usize) {
        self.shared.calls.fetch_add(weight, Ordering::Relaxed);
        self.calls.fetch_add(weight, Ordering::Relaxed);
    }

    /// Ends a call that began with this weight.
    pub fn release(&self, weight: usize) {
        self.shared.calls.fetch_sub(weight, Ordering::Relaxed);
        self.calls.fetch_sub(weight, Ordering::Relaxed);
    }
}

impl Drop for ConnectionAdmission {
    fn drop(&mut self) {
        self.shared.calls.fetch_sub(*self.calls.get_mut(), Ordering::Relaxed);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saturated_server_admits_no_call_above_the_fair_share() {
        let admission = Admission::new(100);
        let (greedy, modest) = (admission.connection(), admission.connection());
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
        assert_eq!(admission.count(), 0);
        assert_eq!(admission.shared.connections.load(Ordering::Relaxed), 0);
    }
}
