//! Limits on memory: [`memory`] reserves bytes of a budget, [`decoded_size`] estimates the size of a
//! decoded message.

pub(crate) mod decoded_size;
pub mod memory;
