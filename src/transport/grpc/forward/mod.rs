//! Forwarding calls to containerd: [`upstream`] is the connection; [`body`] has the bodies of requests
//! and responses.

mod body;
pub(crate) mod upstream;
