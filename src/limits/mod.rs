//! What clients share: [`memory`] reserves parts of a budget, [`decoded_size`] says how much a message
//! takes, [`fair_semaphore`] shares permits between [`client`]s.

pub mod client;
pub(crate) mod decoded_size;
pub(crate) mod fair_semaphore;
pub mod memory;
