//! gRPC, on hyper.
//!
//! - [`server`]: HTTP/2 connections and their calls; [`message`]: the messages of one unary call
//! - [`throttle`]: reading no faster than calls begin; [`metered_body`]: how a call ended, for metrics
//! - [`routes`]: which call goes where, on each socket; [`forward`]: passing calls on to containerd

pub mod forward;
pub mod message;
mod metered_body;
pub mod routes;
pub mod server;
mod throttle;
