//! The fleet: the images of all nodes in one PostgreSQL.
//!
//! - [`schema`]: the tables, and the function `report` that is all a node may call
//! - [`report`]: what a node reports, and the answer
//! - [`target`]: where reports go; [`tls`], [`postgres`]: how they get there
//! - [`catalog`]: reads the log of the node's daemon
//! - [`ship`]: reads the log and reports it, until it is stopped
//! - [`questions`]: the commands that ask
//!
//! **Who keeps the place.** The database does: a node's row has the number of the last change that its
//! tables contain. So a shipper keeps nothing, may be killed anywhere, and may report a change twice: the
//! function takes it once. Every batch names the change that it follows, with its chain, so a store that was
//! copied or put back to an earlier state is noticed by the first report after that.

pub mod backoff;
pub mod catalog;
pub mod postgres;
pub mod questions;
pub mod report;
pub mod schema;
pub mod ship;
pub mod shipment;
pub mod snapshot;
pub mod target;
pub mod tls;
