//! The parts of an address: `scheme://USER:PASSWORD@HOST:PORT,HOST2/PATH?KEY=VALUE&…`, with several hosts.
//!
//! The modules of PostgreSQL's and NATS's addresses check the parts. An error never repeats the credentials.

use std::net::Ipv6Addr;

use go_compat::quote::quote;

/// A host, and its port if the address has one.
pub(crate) type HostAndPort = (String, Option<u16>);

/// The parts, decoded.
#[derive(Default)]
pub(crate) struct Url {
    /// The user; `None` without an `@`.
    pub(crate) user: Option<String>,
    /// The password; `None` without a `:` behind the user.
    pub(crate) password: Option<String>,
    /// The hosts.
    pub(crate) hosts: Vec<HostAndPort>,
    /// The part after the `/`.
    pub(crate) path: String,
    /// The parameters, in order.
    pub(crate) query: Vec<Parameter>,
}

/// A parameter.
pub(crate) struct Parameter {
    /// Its name.
    pub(crate) key: String,
    /// Its value, not decoded, so that a `,` between two values differs from an encoded `,` within a value.
    pub(crate) value: String,
}

impl Url {
    /// Parses the part behind `://`. The error says what is wrong.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None if rest.contains('@') => {
                return Err("a @ follows a / or ?: in a name, a password or a value write @ as %40, / as %2F \
                            and ? as %3F"
                    .into());
            }
            None => (None, authority),
        };
        let mut url = Self::default();
        if let Some(credentials) = credentials {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            url.user = Some(decoded(user).map_err(|why| format!("the user: {why}"))?);
            let password = password.map(decoded).transpose();
            url.password = password.map_err(|why| format!("the password: {why}"))?;
        } else if hosts.is_empty() && rest.is_empty() {
            return Err("nothing follows ://".into());
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.path = decoded(path.strip_prefix('/').unwrap_or(path))?;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').ok_or_else(|| {
                format!("the parameter {} has no value: KEY=VALUE is one", quote(parameter))
            })?;
            url.query.push(Parameter { key: decoded(key)?, value: value.into() });
        }
        // If the user is missing, the text behind `:` may be a password and not a port, so it is not repeated.
        if !hosts.is_empty() {
            let is_shown = url.user.is_some();
            url.hosts =
                hosts.split(',').map(|part| host(part, is_shown)).collect::<Result<_, _>>()?;
        }
        Ok(url)
    }
}

/// A host of the authority.
fn host(part: &str, is_shown: bool) -> Result<HostAndPort, String> {
    let (name, number) = match part.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, number)) => (name, Some(number).filter(|number| !number.is_empty())),
        None if part.starts_with('[') => return Err(format!("the host {} is none", quote(part))),
        None => match part.split_once(':') {
            Some((name, _)) => (name, part.get(name.len()..)),
            None => (part, None),
        },
    };
    let number = match number.map(|number| number.strip_prefix(':')) {
        None => None,
        Some(Some(number)) => Some(port(number).map_err(|why| {
            if is_shown { why } else { "the port of a host is none, and no user is named".into() }
        })?),
        Some(None) => return Err(format!("the host {} is none", quote(part))),
    };
    Ok((checked_host(decoded(name)?)?, number))
}

/// A host: a name, an address, or the folder of a unix socket.
pub(crate) fn checked_host(host: String) -> Result<String, String> {
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
    };
    if host.starts_with('/') || is_name(&host) || host.parse::<Ipv6Addr>().is_ok() {
        return Ok(host);
    }
    Err(format!("the host {} is none", quote(host)))
}

/// A port.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("the port {} is none: 1 to 65535 are", quote(text)))
}

/// Text with `%` and two digits for a byte.
pub(crate) fn decoded(text: &str) -> Result<String, String> {
    const WRONG: &str = "a % has two digits of the base 16 behind it; a % itself is %25";
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(WRONG)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(WRONG.into());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
        bytes.extend(rest.as_bytes());
    }
    if bytes.contains(&0) {
        return Err("it has the byte 0, which no name, password or value may have".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_what_is_none_is_refused() {
        for (text, expected) in [
            ("", Ok("")),
            ("p%40%2f%25%C3%BC", Ok("p@/%ü")),
            ("100%", Err("%25")),
            ("%4", Err("%25")),
            ("%+1", Err("%25")),
            ("%zz", Err("%25")),
            ("%€", Err("%25")),
            ("%00", Err("byte 0")),
            ("%ff", Err("UTF-8")),
        ] {
            match (decoded(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn an_address_is_taken_apart() {
        let url =
            Url::parse("u:p@s:s%3F@a,b:4333,[::1]:1,[::2],%2Fa%2Cb/d%20b?k=v%2C1,v2&k2=").unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("u"), Some("p@s:s?")));
        let hosts: Vec<_> = url.hosts.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        let expected =
            [("a", None), ("b", Some(4333)), ("::1", Some(1)), ("::2", None), ("/a,b", None)];
        assert_eq!(hosts, expected);
        assert_eq!(url.path, "d b");
        let query: Vec<_> = url.query.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        assert_eq!(query, [("k", "v%2C1,v2"), ("k2", "")]);
    }
}
