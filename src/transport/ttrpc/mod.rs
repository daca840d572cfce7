//! ttrpc, on the ttrpc crate.
//!
//! - [`server`]: connections and their calls
//! - [`guard`]: the byte stream under the crate, inspected frame by frame; [`frames`]: finds the frames
//! - [`envelope`]: counts the fields of a request
//! - [`forward`]: forwards connections to containerd; [`open_calls`]: counts their calls

mod envelope;
pub(crate) mod forward;
mod frames;
pub(crate) mod guard;
mod open_calls;
pub mod server;
