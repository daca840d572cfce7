//! Memory: [`memory`] reserves parts of a budget, [`decoded_size`] says how much a message takes.

pub mod decoded_size;
pub mod memory;
