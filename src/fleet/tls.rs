//! The settings of TLS. The server's certificate is always checked. The client sends its certificate if it has one:
//! this proves the identity of a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::admin::file;
use crate::model::{Error, Result};

/// Debian's file with the certificates of public authorities.
const DEFAULT_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The longest file of certificates, in bytes. Debian's has a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Files for TLS, in PEM. They are read for each connection, so a renewed certificate needs no restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// The certificate of this client, with the intermediate certificates.
    pub(crate) cert: Option<PathBuf>,
    /// The key.
    pub(crate) key: Option<PathBuf>,
    /// The authorities that may have signed the server's certificate.
    pub(crate) ca: Option<PathBuf>,
}

impl Certificates {
    /// The file of the authorities.
    pub(crate) fn authorities(&self) -> PathBuf {
        self.ca.clone().unwrap_or_else(|| DEFAULT_AUTHORITIES.into())
    }
}

/// Reads the files, and makes the settings of a connection.
pub(crate) fn config(files: &Certificates) -> Result<ClientConfig> {
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
            let secret = PrivateKeyDer::from_pem_slice(text(key, "--key")?.as_bytes())
                .map_err(|e| wrong(format!("--key {}: {e}", key.display())))?;
            config.with_client_auth_cert(chain, secret).map_err(|e| {
                wrong(format!("--cert {} and --key {}: {e}", cert.display(), key.display()))
            })
        }
        (None, None) => Ok(config.with_no_client_auth()),
        _ => Err(wrong("--cert and --key belong together: give both or none".into())),
    }
}

/// Advice about a failed connection, if TLS was the reason.
pub(crate) fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return advice_for(error);
        }
        // `source` of the outer error skips the inner error, and returns the source of that one.
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inside.map_or_else(|| error.source(), |inside| Some(inside));
    }
    None
}

fn advice_for(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidMessage(_) => Some("the server does not speak TLS there"),
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                Some("none of the authorities of --ca signed the server's certificate")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some("the address names another host than the server's certificate")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Some("the server's certificate has expired, or this machine's clock is wrong")
            }
            _ => None,
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                Some("the server wants a certificate: give --cert and --key")
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired => {
                Some("the server does not accept the certificate of --cert, or wants one")
            }
            _ => None,
        },
        _ => None,
    }
}

/// The text of a regular file.
fn text(file: &Path, flag: &str) -> Result<String> {
    let read = file::read_text(file, MAX_FILE_BYTES).map_err(|e| e.at(flag))?;
    let missing =
        || Error::InvalidArgument(format!("{flag} {}: there is no such file", file.display()));
    read.map(|(_, text)| text).ok_or_else(missing)
}

fn certificates(file: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::InvalidArgument(format!("{flag} {}: {e}", file.display()))
    };
    let text = text(file, flag)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() {
        return Err(wrong(&"it has no certificate in PEM"));
    }
    Ok(found)
}
