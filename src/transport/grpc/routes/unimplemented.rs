//! The answer to a call that a socket does not serve.

use crate::model::Error;

/// The error for a call that this socket does not answer.
pub(crate) fn unimplemented(service: &str, method: &str) -> Error {
    Error::Unimplemented(format!(
        "unknown method {method} of service {service}: this socket is lmdb-images {}, which serves \
         image names only; send other calls to containerd's own socket",
        env!("CARGO_PKG_VERSION")
    ))
}
