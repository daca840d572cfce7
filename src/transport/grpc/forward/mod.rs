//! Passing calls on to containerd: [`upstream`] is the connection, `body` what flows on it.

mod body;
pub mod upstream;
