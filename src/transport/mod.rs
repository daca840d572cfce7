//! The two protocols: sockets and frames on one side, the services' traits on the other.
//!
//! - [`listener`]: accepting connections, on both protocols alike; [`threads`]: where they live,
//!   and [`places`]: on which of them; `turns`: that each gets its turn there
//! - [`connection`]: what is kept of one connection, so that it stays in its bounds; [`begun`]: how
//!   many calls all of them have begun
//! - [`grpc`]: HTTP/2 connections and their calls; [`grpc_message`]: one unary call's messages;
//!   [`grpc_alone`], [`grpc_front`], [`grpc_readonly`]: which call goes where, without and with a
//!   containerd behind, and for those who only read; [`grpc_health`]: health on all of them;
//!   [`forward`]: passing calls on; `passing`: their bodies; [`gather`]: bytes in few system calls;
//!   `paced`: reading no faster than calls begin
//! - [`ttrpc`]: ttrpc connections; [`ttrpc_io`]: the byte stream under one, watched frame by frame,
//!   and `ttrpc_envelope`: field by field; [`ttrpc_forward`]: passing connections on
//! - `counted`: how a gRPC call ended, for the metrics
//! - [`scrape`]: giving out metrics over HTTP/1
//! - [`status`]: the one table from errors to status codes
//!
//! No rule of Images is decided here, and only here are the server types of tonic, hyper and
//! ttrpc named.

pub mod begun;
pub mod connection;
mod counted;
pub mod forward;
pub mod gather;
pub mod grpc;
pub mod grpc_alone;
pub mod grpc_front;
pub mod grpc_health;
pub mod grpc_message;
pub mod grpc_readonly;
pub mod listener;
mod paced;
mod passing;
pub mod places;
pub mod scrape;
pub mod status;
pub mod threads;
pub mod ttrpc;
mod ttrpc_envelope;
pub mod ttrpc_forward;
pub mod ttrpc_io;
mod turns;

use std::time::Duration;

use begun::Begun;

use crate::metrics::calls::Calls;
use crate::service::budget::Budget;

/// The largest gRPC message either way, in bytes: containerd's limit.
pub const GRPC_MESSAGE: usize = 16 << 20;

/// Calls whose request has more bytes than this run apart ([`threads::apart`]).
const LARGE: usize = 64 << 10;

/// Memory for large messages under way, in bytes, of all connections together; requests and replies
/// have so much each, if nobody says otherwise.
pub const BUDGET: u32 = 64 << 20;

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
    pub requests: Budget,
    /// How many calls have begun, on all connections together.
    pub begun: Begun,
    /// Where calls and connections are counted: it goes wherever the limits go.
    pub counted: Calls,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            calls: 256,
            message_time: Duration::from_secs(30),
            unread_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(10),
            requests: Budget::new(BUDGET),
            begun: Begun::default(),
            counted: Calls::default(),
        }
    }
}
