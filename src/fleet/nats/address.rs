//! The address of NATS, and a connection to it.

use std::fmt;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use go_compat::quote::quote;

use crate::fleet::nats::is_node_name;
use crate::fleet::tls::{self, Certificates};
use crate::fleet::url::{HostAndPort, Parameter, Url};
use crate::model::{Error, Result};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The port of NATS.
const DEFAULT_PORT: u16 = 4222;

/// The form of an address.
const FORM: &str = "it looks like nats://NODE@HOST:PORT, or nats://NODE@HOST1,HOST2";

/// Servers of NATS, all of one cluster.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Nats {
    /// The user. For a node, this is the name of the node.
    pub(crate) user: String,
    password: Option<String>,
    servers: Vec<String>,
    has_tls: bool,
    certificates: Certificates,
}

impl fmt::Display for Nats {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NATS at {}", self.servers.join(","))
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Nats {
    /// Parses a URL.
    pub(crate) fn parse(url: &str, certificates: Certificates) -> Result<Self> {
        let wrong = |why: String| Error::InvalidArgument(format!("the NATS address: {why}"));
        let rest = url
            .strip_prefix("nats://")
            .ok_or_else(|| wrong("it does not begin with nats://".into()))?;
        let url = Url::parse(rest).map_err(|why| wrong(format!("{why}; {FORM}")))?;
        let user = url.user.ok_or_else(|| wrong(format!("it names no user; {FORM}")))?;
        if !is_node_name(&user) {
            return Err(wrong(format!(
                "the user {} cannot be in a subject: it has parts that are not empty between dots, no blank, \
                 no * and no >",
                quote(user)
            )));
        }
        if !url.path.is_empty() {
            return Err(wrong(format!(
                "{} follows the hosts; {FORM}",
                quote(format!("/{}", url.path))
            )));
        }
        let mut has_tls = true;
        for Parameter { key, value } in url.query {
            if (key.as_str(), value.as_str()) != ("tls", "off") {
                let other = quote(format!("{key}={value}"));
                return Err(wrong(format!("the option {other} is not known: tls=off is one")));
            }
            has_tls = false;
        }
        if url.hosts.is_empty() {
            return Err(wrong(format!("it names no host; {FORM}")));
        }
        let servers: Result<Vec<_>> =
            url.hosts.iter().map(|host| server(host).map_err(wrong)).collect();
        let (password, servers) = (url.password, servers?);
        Ok(Self { user, password, servers, has_tls, certificates })
    }

    /// Connects. The connection goes to another server by itself when its server ends.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let mut options = ConnectOptions::new()
            .name(format!("lmdb-images {}", self.user))
            .custom_inbox_prefix(format!("_INBOX.{}", self.user))
            .connection_timeout(CONNECT_TIMEOUT);
        if let Some(password) = &self.password {
            options = options.user_and_password(self.user.clone(), password.clone());
        }
        if self.has_tls {
            // This error names the file that is wrong.
            tls::config(&self.certificates)?;
            options =
                options.require_tls(true).add_root_certificates(self.certificates.authorities());
            if let (Some(cert), Some(key)) = (&self.certificates.cert, &self.certificates.key) {
                options = options.add_client_certificate(cert.clone(), key.clone());
            }
        }
        let connected = options.connect(self.servers.clone()).await;
        connected.map_err(|e| self.failed("connecting to", &e))
    }

    /// The error of a failed call.
    pub(crate) fn failed(&self, doing: &str, error: &(dyn std::error::Error + 'static)) -> Error {
        let mut text = format!("{doing} {self}: {error}");
        let advice = tls::advice(error);
        let mut cause = error.source();
        while let Some(error) = cause {
            let said = error.to_string();
            // Some of the library's errors repeat their cause.
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        if let Some(advice) = advice {
            text.push_str(": ");
            text.push_str(advice);
        }
        Error::Unavailable(text)
    }
}

/// A server as the library takes it.
fn server((host, port): &HostAndPort) -> Result<String, String> {
    let port = port.unwrap_or(DEFAULT_PORT);
    if host.starts_with('/') {
        return Err(format!(
            "the host {} is a folder, and NATS has no unix socket; {FORM}",
            quote(host)
        ));
    }
    // An IPv6 address is in brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(format!("nats://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Nats> {
        Nats::parse(url, Certificates::default())
    }

    #[test]
    fn an_address_names_the_node_and_the_servers_of_a_cluster() {
        let nats = parsed("nats://node-17.example.com:p@ss@a,b:4333,[::1]:1").unwrap();
        assert_eq!(nats.user, "node-17.example.com");
        assert_eq!(nats.password.as_deref(), Some("p@ss"));
        assert_eq!(nats.servers, ["nats://a:4222", "nats://b:4333", "nats://[::1]:1"]);
        assert!(nats.has_tls);
        assert!(!parsed("nats://n@h?tls=off").unwrap().has_tls);
        let nats = parsed("nats://a%40b:p%40%2F%25s@h/").unwrap();
        assert_eq!((nats.user.as_str(), nats.password.as_deref()), ("a@b", Some("p@/%s")));
    }

    #[test]
    fn an_address_that_is_wrong_is_named_without_its_password() {
        for (url, said) in [
            ("nats://h:4222", "names no user"),
            ("nats://n:secret@h:port", "the port \"port\""),
            ("nats://n:secret@h,", "the host \"\" is none"),
            ("nats://n:secret@h/x", "\"/x\" follows the hosts"),
            ("nats://n:secret@", "names no host"),
            ("nats://n:secret@[::1]x", "the host \"[::1]x\""),
            ("nats://n:secret@%2Frun", "the host \"/run\" is a folder"),
            ("nats://n:secret%@h", "the password: a % has two digits"),
            ("nats://n:secret?secret@h", "write @ as %40, / as %2F"),
            ("nats://n:secret@h?tls=off&x=1", "the option \"x=1\""),
            ("nats://n:secret", "no user"),
            ("nats://a.>:secret@h", "cannot be in a subject"),
            ("nats://n:secret@h?tls=no", "tls=off is one"),
            ("tls://n:secret@h", "does not begin with nats://"),
        ] {
            let error = parsed(url).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", parsed("nats://n:secret@h")).contains("secret"));
    }
}
