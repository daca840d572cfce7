//! ttrpc, on the ttrpc crate.
//!
//! - [`server`]: connections and their calls; [`forward`]: forwards connections to containerd
//! - [`guard`]: the byte stream under the crate, inspected frame by frame
//! - [`envelope`]: counts the fields of a request

mod envelope;
pub(crate) mod forward;
pub(crate) mod guard;
pub mod server;
