//! gRPC, on hyper.
//!
//! - [`server`]: HTTP/2 connections and their calls; [`message`]: the messages of one unary call
//! - [`throttle`]: limits the rate of reading to the rate at which calls begin; [`frames`]: counts HEADERS
//!   and DATA frames for it
//! - [`request_body`]: the body of a request, whose unread frames are counted
//! - [`metered_body`]: records the status of each call for the metrics
//! - [`blob_body`]: the reply of Content/Read, from the file of a blob
//! - [`routes`]: a router per socket; [`forward`]: forwards calls to containerd

mod blob_body;
pub(crate) mod forward;
mod frames;
pub mod message;
mod metered_body;
pub(crate) mod request_body;
pub(crate) mod routes;
pub mod server;
mod throttle;
