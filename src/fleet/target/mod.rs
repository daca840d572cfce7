//! The address of a PostgreSQL: where reports go, and where questions are asked.
//!
//! An address has the meaning that libpq gives it. The library `tokio-postgres` takes a list of hosts for one host, so
//! this module parses the lists. Parts that libpq would ignore or overwrite are errors: a parameter that comes twice, or
//! too few ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use go_compat::quote::quote;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use crate::fleet::tls::Certificates;
use crate::fleet::url::{Url, checked_host, decoded, port};
use crate::model::{Error, Result};

/// How long a server may take to accept a connection, if the address sets no time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the kernel waits for the acknowledgement of sent bytes.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The port of PostgreSQL.
const DEFAULT_PORT: u16 = 5432;

/// An example of an address, for errors.
const FORM: &str = "it looks like postgres://ROLE@HOST/DATABASE";

/// Parameters of libpq that are flags here, with the flag.
const FLAGS: [(&str, &str); 3] =
    [("sslcert", "--cert"), ("sslkey", "--key"), ("sslrootcert", "--ca")];

/// Parameters with few values, and these values: the library's error does not name them.
const VALUES: [(&str, &[&str]); 3] = [
    ("target_session_attrs", &["any", "read-write", "read-only"]),
    ("channel_binding", &["disable", "prefer", "require"]),
    ("sslnegotiation", &["postgres", "direct"]),
];

/// Parameters that the library gets unchanged.
const OTHERS: [&str; 7] = [
    "application_name",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "options",
];

/// A PostgreSQL: one server, or several servers of which the first suitable one is used.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    /// The servers, in the order in which they are tried.
    pub(crate) servers: Vec<Server>,
    /// The files for TLS.
    pub(crate) certificates: Certificates,
}

/// A server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Its host, for an error.
    name: String,
    /// Its address, with role and options.
    pub(crate) config: Config,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL at {}", self.name)
    }
}

impl fmt::Display for Postgres {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.servers.iter().map(|server| server.name.as_str()).collect();
        write!(f, "PostgreSQL at {}", names.join(","))
    }
}

impl Postgres {
    /// Parses a URL.
    pub(crate) fn parse(url: &str, certificates: Certificates) -> Result<Self> {
        let wrong = |why| Error::InvalidArgument(format!("the PostgreSQL address: {why}"));
        let rest = match url.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => rest,
            Some((scheme, _)) => {
                let scheme = quote(format!("{scheme}://"));
                return Err(wrong(format!("it begins with {scheme}, not with postgres://")));
            }
            None => return Err(wrong("it does not begin with postgres://".into())),
        };
        let address = Url::parse(rest).and_then(Address::new);
        let servers = address.and_then(|address| address.servers()).map_err(wrong)?;
        Ok(Self { servers, certificates })
    }
}

/// The content of an address, from its parts and its parameters.
#[derive(Default)]
struct Address {
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    hosts: Option<Vec<String>>,
    ports: Option<Vec<u16>>,
    addresses: Option<Vec<IpAddr>>,
    tls: Option<SslMode>,
    /// Name and value.
    others: Vec<(String, String)>,
}

impl Address {
    fn new(url: Url) -> Result<Self, String> {
        let mut address = Self {
            user: url.user,
            password: url.password,
            database: Some(url.path).filter(|path| !path.is_empty()),
            ..Self::default()
        };
        if !url.hosts.is_empty() {
            if url.hosts.iter().any(|(_, port)| port.is_some()) {
                let ports = url.hosts.iter().map(|(_, port)| port.unwrap_or(DEFAULT_PORT));
                address.ports = Some(ports.collect());
            }
            address.hosts = Some(url.hosts.into_iter().map(|(host, _)| host).collect());
        }
        for parameter in url.query {
            address.set(&parameter.key, &parameter.value)?;
        }
        Ok(address)
    }

    /// Takes a parameter.
    fn set(&mut self, key: &str, raw: &str) -> Result<(), String> {
        let all = || raw.split(',').map(decoded);
        match key {
            "user" => once(&mut self.user, key, decoded(raw)?),
            "password" => {
                let password = decoded(raw).map_err(|why| format!("the password: {why}"))?;
                once(&mut self.password, key, password)
            }
            "dbname" => once(&mut self.database, key, decoded(raw)?),
            "host" => {
                let hosts = all().map(|host| checked_host(host?));
                once(&mut self.hosts, key, hosts.collect::<Result<_, _>>()?)
            }
            "port" => {
                // As in libpq, an empty value means the default.
                let number = |text: &str| {
                    if text.is_empty() { Ok(DEFAULT_PORT) } else { port(text) }
                };
                let ports = all().map(|text| number(&text?));
                once(&mut self.ports, key, ports.collect::<Result<_, String>>()?)
            }
            "hostaddr" => {
                let address = |text: String| {
                    text.parse().map_err(|_| format!("hostaddr {} is no IP address", quote(&text)))
                };
                let addresses = all().map(|text| address(text?));
                once(&mut self.addresses, key, addresses.collect::<Result<_, String>>()?)
            }
            "sslmode" => once(&mut self.tls, key, ssl_mode(&decoded(raw)?)?),
            _ => self.set_other(key, decoded(raw)?),
        }
    }

    /// Takes a parameter of the library.
    fn set_other(&mut self, key: &str, value: String) -> Result<(), String> {
        if let Some((_, flag)) = FLAGS.iter().find(|(option, _)| *option == key) {
            return Err(format!("give {key} as {flag} FILE"));
        }
        match VALUES.iter().find(|(option, _)| *option == key) {
            Some((_, known)) if !known.contains(&value.as_str()) => {
                let known = known.join(", ");
                return Err(format!("{key} {} is not known: {known} are", quote(value)));
            }
            None if !OTHERS.contains(&key) => {
                return Err(format!("the parameter {} is not known; {FORM}", quote(key)));
            }
            _ => {}
        }
        if self.others.iter().any(|(other, _)| other == key) {
            return Err(twice(key));
        }
        self.others.push((key.into(), value));
        Ok(())
    }

    /// The servers.
    fn servers(self) -> Result<Vec<Server>, String> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let user = given(&self.user).ok_or_else(|| format!("it names no role; {FORM}"))?;
        let hosts = self.hosts.clone().ok_or_else(|| format!("it names no host; {FORM}"))?;
        // libpq would use the name of the role, so each node would report to a database of its own.
        let database =
            given(&self.database).ok_or_else(|| format!("it names no database; {FORM}"))?;
        let mut common = self.library_config()?;
        common.user(user).dbname(database).tcp_user_timeout(TCP_USER_TIMEOUT);
        if let Some(password) = self.password {
            common.password(password);
        }
        let ports = self.ports.unwrap_or_else(|| vec![DEFAULT_PORT]);
        let addresses = self.addresses.unwrap_or_default();
        if ports.len() != 1 && ports.len() != hosts.len() {
            return Err(numbers("ports", ports.len(), hosts.len()));
        }
        if !addresses.is_empty() && addresses.len() != hosts.len() {
            return Err(numbers("values of hostaddr", addresses.len(), hosts.len()));
        }
        let of_host =
            ports.iter().cycle().zip(addresses.iter().map(Some).chain(std::iter::repeat(None)));
        let servers = hosts.into_iter().zip(of_host).map(|(host, (port, address))| {
            let mut config = common.clone();
            config.host(&host).port(*port);
            if let Some(address) = address {
                config.hostaddr(*address);
            }
            // PostgreSQL has no TLS at a unix socket.
            let is_local = host.starts_with('/');
            config.ssl_mode(if is_local {
                SslMode::Disable
            } else {
                self.tls.unwrap_or(SslMode::Require)
            });
            Server { name: host, config }
        });
        Ok(servers.collect())
    }

    /// The settings of the library that do not depend on the server.
    fn library_config(&self) -> Result<Config, String> {
        let quoted = |text: &str| text.replace('\\', r"\\").replace('\'', r"\'");
        let text: Vec<_> =
            self.others.iter().map(|(key, value)| format!("{key}='{}'", quoted(value))).collect();
        let mut config = Config::from_str(&text.join(" ")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            cause.unwrap_or_else(|| e.to_string())
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("lmdb-images");
        }
        Ok(config)
    }
}

/// TLS is left out only where the address says so, and the server's certificate and name are always checked.
fn ssl_mode(value: &str) -> Result<SslMode, String> {
    match value {
        "disable" => Ok(SslMode::Disable),
        "prefer" | "require" | "verify-full" => Ok(SslMode::Require),
        other => Err(format!(
            "sslmode {} is not known: disable is, and require, which checks the server's certificate and name",
            quote(other)
        )),
    }
}

/// Sets a value that may be set only once.
fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    if slot.is_some() {
        return Err(twice(key));
    }
    *slot = Some(value);
    Ok(())
}

fn twice(key: &str) -> String {
    format!("{key} is given twice; a list of hosts is HOST1,HOST2")
}

fn numbers(what: &str, found: usize, hosts: usize) -> String {
    format!("it has {found} {what} for {hosts} hosts: give one for each host")
}

#[cfg(test)]
mod tests;
