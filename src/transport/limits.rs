//! The limits on one connection, and on all connections together.

use std::time::Duration;

use crate::transport::conn::admission::Admission;

use crate::limits::memory::MemoryBudget;
use crate::limits::unread_data::UnreadData;
use crate::metrics::calls::Calls;

/// The full name of the Images service.
pub const IMAGES: &str = "containerd.services.images.v1.Images";

/// The full name of the Catalog service.
pub const CATALOG: &str = "lmdbimages.v1.Catalog";

/// Streams of one gRPC connection at a time. The limit on calls of Images is lower: long streams (Watch)
/// must leave room for calls.
pub(crate) const MAX_STREAMS: u32 = 4096;

/// How long forwarded calls may go on after the daemon begins to shut down. The connection closes sooner if only calls are
/// left that wait for something to happen, such as a stream of events.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// How long a client may send calls on its connection after the daemon begins to shut down: until the client has read the
/// GOAWAY frame, or for ttrpc, which has none, until the calls have been read that are on their way.
pub(crate) const GOAWAY_TIME: Duration = Duration::from_millis(200);

/// How long containerd may take to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest gRPC message either way, in bytes: containerd's limit.
pub const GRPC_MESSAGE: usize = 16 << 20;

/// A call whose request has more bytes runs on the thread for large requests
/// ([`offload`](crate::transport::conn::workers::offload)).
pub(crate) const OFFLOAD_THRESHOLD: usize = 64 << 10;

/// The default memory budget in bytes for large requests, of all connections together, and that for
/// large replies and changes under way. Either has room for the largest of its kind: a request has
/// 24 MiB once it is decoded, a change 40 MiB with its reply.
pub const DEFAULT_MEMORY_BUDGET: u32 = 40 << 20;

/// The limits on clients. The timeouts are generous: they end only what hangs.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections to one socket at a time. The server closes one more at once.
    pub connections: usize,
    /// Calls of one connection at a time. Further calls wait before the server reads (ttrpc) or
    /// runs (gRPC) them.
    pub calls: usize,
    /// How long a client may take to send a message that it has begun.
    pub message_time: Duration,
    /// How long a client may leave replies unread before the server closes the connection.
    pub unread_time: Duration,
    /// How long calls in flight may take to end when the daemon shuts down.
    pub drain_time: Duration,
    /// The memory budget for large requests, of all connections together.
    pub request_memory: MemoryBudget,
    /// The limit on data of gRPC requests that no call has read, of all connections together.
    pub unread_data: UnreadData,
    /// The limit on calls in flight, on all connections together.
    pub admission: Admission,
    /// The metrics of calls and connections.
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
            unread_data: UnreadData::default(),
            admission: Admission::default(),
            metrics: Calls::default(),
        }
    }
}
