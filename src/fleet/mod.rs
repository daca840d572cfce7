//! The fleet: the images of all nodes in one PostgreSQL.
//!
//! - [`schema`]: the tables, and the function `report` that is all a node may call
//! - [`report`]: the report of a node, and the answer to it
//! - [`target`]: the address of a PostgreSQL, read from its [`url`]; [`tls`], [`postgres`]: the connection to it
//! - [`nats`]: reports through NATS JetStream, for nodes that cannot reach the database
//! - [`catalog`]: reads the log of the node's daemon
//! - [`ship`]: reads the log and reports it, until it is stopped
//! - [`questions`]: the queries of the commands
//!
//! **The database keeps the position:** the row of a node has the number of the last change that the tables
//! contain. So a shipper keeps no state and may be killed at any point. It may report a change twice, and the
//! function stores it once. Every batch names the change that it follows, with its chain. So the first report of a
//! store that was copied, or put back to an earlier state, shows that.

pub(crate) mod backoff;
pub(crate) mod catalog;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod questions;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod ship;
pub(crate) mod shipment;
pub(crate) mod snapshot;
pub(crate) mod target;
pub(crate) mod tls;
mod url;
