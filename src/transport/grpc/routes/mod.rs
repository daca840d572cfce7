//! A router per kind of socket: [`standalone`], [`proxy`] and [`readonly`]. All of them answer
//! [`health`] and [`catalog`]. [`local_reads`] are the calls that proxy mode answers from containerd's
//! files.

pub(crate) mod catalog;
pub(crate) mod health;
mod local_reads;
pub(crate) mod proxy;
pub(crate) mod readonly;
pub(crate) mod standalone;
pub(crate) mod unimplemented;
