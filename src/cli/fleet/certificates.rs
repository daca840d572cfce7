//! The files for TLS of `fleet`.

use std::path::PathBuf;

use clap::Args;

use crate::fleet::tls::Certificates;

/// Files for TLS.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CertificateArgs {
    /// Certificate of this client, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    /// CA certificates that verify the server's certificate, in PEM [default: the system's]
    #[arg(long, env = "LMDB_IMAGES_FLEET_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl From<CertificateArgs> for Certificates {
    fn from(args: CertificateArgs) -> Self {
        Self { cert: args.cert, key: args.key, ca: args.ca }
    }
}
