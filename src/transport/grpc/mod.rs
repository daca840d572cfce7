//! gRPC, on hyper.
//!
//! - [`server`]: HTTP/2 connections and their calls; [`message`]: the messages of one unary call
//! - [`throttle`]: limits the rate of reading to the rate at which calls begin
//! - [`metered_body`]: records the status of each call for the metrics
//! - [`blob_body`]: the bytes of a blob of containerd's
//! - [`routes`]: a router per socket; [`forward`]: forwards calls to containerd

mod blob_body;
pub(crate) mod forward;
pub mod message;
mod metered_body;
pub(crate) mod routes;
pub mod server;
mod throttle;
