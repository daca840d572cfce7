//! The settings of TLS: the server's certificate is always checked, and the client's is sent if there is one.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::fleet::target::Certificates;
use crate::model::{Error, Result};

/// Reads the files, and makes the settings of a connection.
pub fn config(files: &Certificates) -> Result<ClientConfig> {
    let wrong = |what: String| Error::InvalidArgument(what);
    let mut roots = RootCertStore::empty();
    let ca = files.authorities();
    for certificate in certificates(&ca, "--ca")? {
        roots.add(certificate).map_err(|e| wrong(format!("--ca {}: {e}", ca.display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Internal(format!("TLS: {e}")))?
        .with_root_certificates(roots);
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "--cert")?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| wrong(format!("--key {}: {e}", key.display())))?;
            config.with_client_auth_cert(chain, secret).map_err(|e| {
                wrong(format!("--cert {} and --key {}: {e}", cert.display(), key.display()))
            })
        }
        (None, None) => Ok(config.with_no_client_auth()),
        _ => Err(wrong("--cert and --key belong together: give both or none".into())),
    }
}

fn certificates(file: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::InvalidArgument(format!("{flag} {}: {e}", file.display()))
    };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e))?.collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() {
        return Err(wrong(&"it has no certificate in PEM"));
    }
    Ok(found)
}
