//! Where reports go: the address of `--to`, and the certificate that proves the identity of a node.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

use crate::model::go::quote::quote;
use crate::model::{Error, Result};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where Debian keeps the certificates of public authorities.
const DEFAULT_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Options of a libpq URL that are flags here, with the flag.
const FLAGS: [(&str, &str); 3] =
    [("sslcert", "--cert"), ("sslkey", "--key"), ("sslrootcert", "--ca")];

/// Files for TLS, in PEM. They are read for each connection, so a renewed certificate needs no restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The certificate of this client, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The authorities that may have signed the server's certificate.
    pub ca: Option<PathBuf>,
}

impl Certificates {
    /// The file of the authorities.
    pub fn authorities(&self) -> PathBuf {
        self.ca.clone().unwrap_or_else(|| DEFAULT_AUTHORITIES.into())
    }
}

/// A PostgreSQL.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// The address, role and options.
    pub config: tokio_postgres::Config,
    /// The files for TLS.
    pub certificates: Certificates,
}

impl fmt::Display for Postgres {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.config.get_hosts().iter().map(host_name).collect();
        write!(f, "PostgreSQL at {}", hosts.join(","))
    }
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    }
}

impl Postgres {
    /// Parses a URL.
    pub fn parse(url: &str, certificates: Certificates) -> Result<Self> {
        let wrong = |why: String| Error::InvalidArgument(format!("the PostgreSQL address: {why}"));
        match url.split_once("://") {
            Some(("postgres" | "postgresql", _)) => {}
            Some((scheme, _)) => {
                let scheme = quote(format!("{scheme}://"));
                return Err(wrong(format!("it begins with {scheme}, not with postgres://")));
            }
            None => return Err(wrong("it does not begin with postgres://".into())),
        }
        for (option, flag) in FLAGS {
            if url.contains(&format!("{option}=")) {
                return Err(wrong(format!("give {option} as {flag} FILE")));
            }
        }
        // The error of the parser may repeat the URL, which may hold a password; its cause does not.
        let mut config = tokio_postgres::Config::from_str(url).map_err(|e| {
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            wrong(format!(
                "{}; it looks like postgres://ROLE@HOST/DATABASE",
                cause.unwrap_or_else(|| "it is no URL".into())
            ))
        })?;
        if config.get_hosts().is_empty() {
            return Err(wrong(
                "it names no host; it looks like postgres://ROLE@HOST/DATABASE".into(),
            ));
        }
        if config.get_user().is_none() {
            return Err(wrong(
                "it names no role; it looks like postgres://ROLE@HOST/DATABASE".into(),
            ));
        }
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        match config.get_ssl_mode() {
            _ if is_local => {
                config.ssl_mode(SslMode::Disable);
            }
            // Without TLS only where the URL says so.
            SslMode::Disable => {}
            _ => {
                config.ssl_mode(SslMode::Require);
            }
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        config.tcp_user_timeout(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("lmdb-images");
        }
        Ok(Self { config, certificates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Postgres> {
        Postgres::parse(url, Certificates::default())
    }

    #[test]
    fn tls_is_left_out_only_at_a_unix_socket_or_where_the_address_says_so() {
        for (url, mode) in [
            ("postgres://n@h/d", SslMode::Require),
            ("postgres://n@h/d?sslmode=prefer", SslMode::Require),
            ("postgres://n@h/d?sslmode=disable", SslMode::Disable),
            ("postgres://n@/d?host=/run/postgresql", SslMode::Disable),
            ("postgres://n@%2Frun%2Fpostgresql/d?sslmode=require", SslMode::Disable),
        ] {
            assert_eq!(parsed(url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn an_address_that_is_wrong_is_named_without_its_password() {
        for (url, said) in [
            ("postgres://n:secret@h/d?sslcert=/x", "give sslcert as --cert FILE"),
            ("postgres://n:secret@h/d?nonsense=1", "nonsense"),
            ("postgres://h/d", "names no role"),
            ("postgres://n:secret@/d", "names no host"),
            ("postgres://n:secret@h:port/d", "port"),
            ("mysql://n:secret@h/d", "begins with \"mysql://\", not with postgres://"),
        ] {
            let error = parsed(url).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}
