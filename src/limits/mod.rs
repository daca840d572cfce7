//! Limits that clients share: [`memory`] reserves parts of a budget, [`decoded_size`] estimates the memory of
//! a message, [`fair_semaphore`] shares permits between [`client`]s, [`streams`] counts open streams,
//! [`unread_data`] the data of requests that no call has read.

pub mod client;
pub(crate) mod decoded_size;
pub(crate) mod fair_semaphore;
pub mod memory;
pub(crate) mod streams;
pub mod unread_data;
