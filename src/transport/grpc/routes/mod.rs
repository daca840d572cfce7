//! A router per kind of socket: [`standalone`], [`proxy`] and [`readonly`]. All of them answer
//! [`health`] and [`catalog`].

pub mod catalog;
pub mod health;
pub mod proxy;
pub mod readonly;
pub mod standalone;
pub mod unimplemented;
