//! Connections, on both protocols alike.
//!
//! - [`listener`]: the accept loop; [`workers`]: the threads that connections live on; [`placement`]: on
//!   which of them
//! - [`admission`]: at most so many calls in flight; [`fair`]: a quantum of input a round
//! - [`state`]: what is known of one connection
//! - [`coalesce`]: many small writes in few system calls

pub mod admission;
pub mod coalesce;
pub mod fair;
pub mod listener;
pub mod placement;
pub mod state;
pub mod workers;
