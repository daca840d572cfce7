//! What one connection, and all of them together, may take.

use std::time::Duration;

use crate::transport::conn::admission::Admission;

use crate::limits::memory::MemoryBudget;
use crate::metrics::calls::Calls;

/// The largest gRPC message either way, in bytes: containerd's limit.
pub const GRPC_MESSAGE: usize = 16 << 20;

/// Calls whose request has more bytes than this run apart ([`threads::apart`]).
pub const OFFLOAD_THRESHOLD: usize = 64 << 10;

/// Memory for large messages under way, in bytes, of all connections together; requests and replies
/// have so much each, if nobody says otherwise.
pub const DEFAULT_MEMORY_BUDGET: u32 = 64 << 20;

/// What clients may take, whatever they do. Times are generous: they end only what hangs.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections to one socket at a time; one more is closed at once.
    pub connections: usize,
    /// Calls of one connection at a time; further ones wait to be read (ttrpc) or run (gRPC).
    pub calls: usize,
    /// How long a client may take to send a message it has begun.
    pub message_time: Duration,
    /// How long replies may lie unread before their connection is closed.
    pub unread_time: Duration,
    /// How long calls in flight may take to end when the daemon stops.
    pub drain_time: Duration,
    /// Memory for large requests under way, of all connections together.
    pub request_memory: MemoryBudget,
    /// How many calls have begun, on all connections together.
    pub admission: Admission,
    /// Where calls and connections are counted: it goes wherever the limits go.
    pub metrics: Calls,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            calls: 256,
            message_time: Duration::from_secs(30),
            unread_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(10),
            request_memory: MemoryBudget::new(DEFAULT_MEMORY_BUDGET),
            admission: Admission::default(),
            metrics: Calls::default(),
        }
    }
}
