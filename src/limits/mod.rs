//! Limits that clients share.
//!
//! - [`client`]: the identity of a client, for limits that count by client
//! - [`memory`]: reservations of a memory budget
//! - [`decoded_size`]: an estimate of the memory of a decoded message
//! - [`fair_semaphore`]: shares permits fairly between clients
//! - [`streams`]: counts open streams
//! - [`unread_data`]: counts the request data that no call has read

pub mod client;
pub(crate) mod decoded_size;
pub(crate) mod fair_semaphore;
pub mod memory;
pub(crate) mod streams;
pub mod unread_data;
