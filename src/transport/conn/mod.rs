//! Connections of both protocols.
//!
//! - [`listener`]: the accept loop
//! - [`workers`]: the threads that serve connections; [`placement`]: the choice of a thread
//! - [`admission`]: the limit on calls in flight; [`fair`]: a quantum of input per round
//! - [`state`]: the accounts of one connection
//! - [`coalesce`]: many small writes in few system calls

pub mod admission;
pub mod coalesce;
pub mod fair;
pub mod listener;
pub mod placement;
pub mod state;
pub mod workers;
