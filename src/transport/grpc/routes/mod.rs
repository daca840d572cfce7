//! A router per kind of socket: [`standalone`], [`proxy`] and [`readonly`]. All of them answer
//! [`health`].

pub mod health;
pub mod proxy;
pub(crate) mod readonly;
pub mod standalone;
pub(crate) mod unimplemented;
