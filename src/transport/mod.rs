//! The two protocols: sockets and frames on one side, the services' traits on the other.
//!
//! - [`conn`]: connections, on both protocols alike
//! - [`grpc`]: HTTP/2 connections, their calls, and where each call goes
//! - [`ttrpc`]: ttrpc connections and their calls
//! - [`limits`]: what they may take; [`status`]: the one table from errors to status codes
//! - [`metrics_http`]: metrics over HTTP/1
//!
//! No rule of Images is decided here, and only here are the server types of tonic, hyper and
//! ttrpc named.

pub mod conn;
pub mod grpc;
pub mod limits;
pub mod metrics_http;
pub mod status;
pub mod ttrpc;

pub use limits::Limits;
