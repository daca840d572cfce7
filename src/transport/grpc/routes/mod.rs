//! Which call goes where: [`standalone`], [`proxy`] in front of a containerd, [`readonly`]; [`health`] on
//! all of them.

pub mod health;
pub mod proxy;
pub mod readonly;
pub mod standalone;
pub mod unimplemented;
