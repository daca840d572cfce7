//! ttrpc, on the ttrpc crate.
//!
//! - [`server`]: connections and their calls; [`forward`]: passing connections on to containerd
//! - [`guard`]: the byte stream under the crate, inspected frame by frame; [`envelope`]: field by field

mod envelope;
pub mod forward;
pub mod guard;
pub mod server;
