//! The two protocols: sockets and frames on one side, the traits of the services on the other.
//!
//! - [`conn`]: connections of both protocols
//! - [`grpc`]: HTTP/2 connections, their calls, and the routing of calls
//! - [`ttrpc`]: ttrpc connections and their calls
//! - [`limits`]: the limits on clients; [`status`]: the one table from errors to status codes
//! - [`metrics_http`]: metrics over HTTP/1
//!
//! This module decides no rule of Images, and no other module names the server types of tonic,
//! hyper and ttrpc.

pub mod conn;
pub mod grpc;
pub mod limits;
pub(crate) mod metrics_http;
pub mod status;
pub mod ttrpc;

pub use limits::Limits;
