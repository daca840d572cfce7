//! Connections of both protocols.
//!
//! - [`listener`]: the accept loop
//! - [`workers`]: the threads that serve connections; [`placement`]: the choice of a thread
//! - [`admission`]: the limit on calls in flight; [`fair`]: a quantum of input per round
//! - [`state`]: the accounts of one connection
//! - [`coalesce`]: many small writes in few system calls

pub mod admission;
pub(crate) mod coalesce;
pub(crate) mod fair;
pub mod listener;
pub(crate) mod placement;
pub(crate) mod state;
pub mod workers;
