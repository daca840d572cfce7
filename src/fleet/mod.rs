//! The fleet: the images of all nodes in one PostgreSQL.
//!
//! - [`schema`]: the tables, and the function `report` that is all a node may call
//! - [`report`]: what a node reports, and the answer
//! - [`target`]: where reports go, by its [`url`]; [`tls`], [`postgres`]: how they get there
//! - `nats`: reports through NATS JetStream, for nodes that cannot reach the database
//! - [`catalog`]: reads the log of the node's daemon
//! - [`ship`]: reads the log and reports it, until it is stopped
//! - [`questions`]: the commands that ask
//!
//! **The database keeps the place:** a node's row has the number of the last change that its
//! tables contain. So a shipper keeps nothing, may be killed anywhere, and may report a change twice: the
//! function takes it once. Every batch names the change that it follows, with its chain, so a store that was
//! copied or put back to an earlier state is noticed by the first report after that.

pub(crate) mod backoff;
pub(crate) mod catalog;
#[cfg(feature = "nats")]
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
