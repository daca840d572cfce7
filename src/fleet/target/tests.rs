//! Addresses that are right, and what is said of others.

use tokio_postgres::config::{Host, TargetSessionAttrs};

use super::*;

fn parsed(url: &str) -> Result<Postgres> {
    Postgres::parse(url, Certificates::default())
}

/// Host and port of each server.
fn servers(url: &str) -> Vec<(String, u16)> {
    let parsed = parsed(url).unwrap_or_else(|e| panic!("{url}: {e}"));
    let server = |server: &Server| {
        let config = &server.config;
        let ([host], [port]) = (config.get_hosts(), config.get_ports()) else {
            panic!("{url}: {config:?}")
        };
        let host = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => format!("unix:{}", folder.display()),
        };
        (host, *port)
    };
    parsed.servers.iter().map(server).collect()
}

#[test]
fn a_list_of_hosts_is_several_servers_each_with_its_port() {
    for (url, expected) in [
        ("postgres://n@h/d", &[("h", 5432)][..]),
        ("postgresql://n@h:1/d", &[("h", 1)]),
        ("postgres://n@a,b:2,[::1]:3/d", &[("a", 5432), ("b", 2), ("::1", 3)]),
        ("postgres://n@/d?host=a,b&port=1,2", &[("a", 1), ("b", 2)]),
        ("postgres://n@/d?host=a,b&port=,2", &[("a", 5432), ("b", 2)]),
        ("postgres://n@/d?host=a,b&port=7", &[("a", 7), ("b", 7)]),
        ("postgres://n@a,b/d?port=7", &[("a", 7), ("b", 7)]),
        ("postgres://n@/d?host=/a,/b", &[("unix:/a", 5432), ("unix:/b", 5432)]),
        ("postgres://n@/d?port=1,2&host=%2Fa,/b", &[("unix:/a", 1), ("unix:/b", 2)]),
        ("postgres://n@%2Fa,%2Fb:9/d", &[("unix:/a", 5432), ("unix:/b", 9)]),
        ("postgres://n@/d?host=/a%2Cb", &[("unix:/a,b", 5432)]),
        ("postgres://n@/d?host=/a,h,::1", &[("unix:/a", 5432), ("h", 5432), ("::1", 5432)]),
        ("postgres://?user=n&dbname=d&host=h", &[("h", 5432)]),
    ] {
        let found = servers(url);
        let found: Vec<_> = found.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        assert_eq!(found, expected, "{url}");
    }
}

#[test]
fn tls_is_left_out_only_at_a_unix_socket_or_where_the_address_says_so() {
    for (url, modes) in [
        ("postgres://n@h/d", &[SslMode::Require][..]),
        ("postgres://n@h/d?sslmode=prefer", &[SslMode::Require]),
        ("postgres://n@h/d?sslmode=verify-full", &[SslMode::Require]),
        ("postgres://n@h/d?sslmode=disable", &[SslMode::Disable]),
        ("postgres://n@/d?host=/run/postgresql", &[SslMode::Disable]),
        ("postgres://n@%2Frun%2Fpostgresql/d?sslmode=require", &[SslMode::Disable]),
        ("postgres://n@/d?host=/run/postgresql,h", &[SslMode::Disable, SslMode::Require]),
    ] {
        let servers = parsed(url).unwrap().servers;
        let found: Vec<_> = servers.iter().map(|server| server.config.get_ssl_mode()).collect();
        assert_eq!(found, modes, "{url}");
    }
}

#[test]
fn a_role_a_password_and_a_database_may_have_any_character() {
    let is_said = |url: &str, user, password: Option<&str>, database| {
        let parsed = parsed(url).unwrap_or_else(|e| panic!("{url}: {e}"));
        let config = &parsed.servers[0].config;
        assert_eq!(config.get_user(), Some(user), "{url}");
        assert_eq!(config.get_password(), password.map(str::as_bytes), "{url}");
        assert_eq!(config.get_dbname(), Some(database), "{url}");
        assert!(!format!("{parsed}").contains("secret"), "{url}");
    };
    is_said("postgres://n@h/d", "n", None, "d");
    is_said("postgres://n:@h/d", "n", Some(""), "d");
    is_said("postgres://n:secret%2F%3F%40%25%27%20@h/d", "n", Some("secret/?@%' "), "d");
    is_said("postgres://n:se@cret:secret@h/d", "n", Some("se@cret:secret"), "d");
    is_said("postgres://a%40b@h/d%2Fe%20'f", "a@b", None, "d/e 'f");
    is_said("postgres://h/d?user=n&password=secret%26", "n", Some("secret&"), "d");
}

#[test]
fn parameters_reach_the_library() {
    let url = "postgres://n@h/d?target_session_attrs=read-write&connect_timeout=3&application_name=it's%20%5C\
               &options=-c%20lock_timeout=9&hostaddr=127.0.0.1&keepalives_idle=7";
    let config = &parsed(url).unwrap().servers[0].config;
    assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(3)));
    assert_eq!(config.get_application_name(), Some(r"it's \"));
    assert_eq!(config.get_options(), Some("-c lock_timeout=9"));
    assert_eq!(config.get_hostaddrs(), [IpAddr::from([127, 0, 0, 1])]);
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
    let config = &parsed("postgres://n@h/d").unwrap().servers[0].config;
    assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
    assert_eq!(config.get_application_name(), Some("lmdb-images"));
}

#[test]
fn an_address_that_is_wrong_is_named_without_its_password() {
    for (url, said) in [
        ("postgres://n:secret@h/d?sslcert=/x", "give sslcert as --cert FILE"),
        ("postgres://n:secret@h/d?nonsense=1", "the parameter \"nonsense\" is not known"),
        ("postgres://n:secret@h/d?nonsense", "the parameter \"nonsense\" has no value"),
        ("postgres://h/d", "names no role"),
        ("postgres://@h/d", "names no role"),
        ("postgres://n:secret@/d", "names no host"),
        ("postgres://n:secret@h", "names no database"),
        ("postgres://n:secret@h/", "names no database"),
        ("postgres://", "nothing follows"),
        ("postgres://n:secret@h:port/d", "the port \"port\" is none"),
        ("postgres://n:secret@h:/d", "the port \"\" is none"),
        ("postgres://n:secret@h:0/d", "the port \"0\" is none"),
        ("postgres://n:secret@h:65536/d", "the port \"65536\" is none"),
        ("postgres://n:secret@a,,b/d", "the host \"\" is none"),
        ("postgres://n:secret@[::1/d", "the host \"[::1\" is none"),
        ("postgres://n:secret@[::1]x/d", "the host \"[::1]x\" is none"),
        ("postgres://n:secret@a b/d", "the host \"a b\" is none"),
        ("postgres://n:secret@/d?host=/a,", "the host \"\" is none"),
        ("postgres://n:secret@h/d?host=/a", "host is given twice"),
        (
            "postgres://n:secret@/d?host=/a&host=/b",
            "host is given twice; a list of hosts is HOST1,HOST2",
        ),
        ("postgres://n:secret@h:1/d?port=2", "port is given twice"),
        ("postgres://n:secret@h/d?password=secret", "password is given twice"),
        ("postgres://n:secret@h/d?options=a&options=b", "options is given twice"),
        ("postgres://n:secret@/d?host=a,b,c&port=1,2", "2 ports for 3 hosts"),
        ("postgres://n:secret@a/d?port=1,2", "2 ports for 1 hosts"),
        ("postgres://n:secret@a/d?hostaddr=1.1.1.1,1.1.1.2", "2 values of hostaddr for 1 hosts"),
        ("postgres://n:secret@a/d?hostaddr=b", "hostaddr \"b\" is no IP address"),
        ("postgres://n:secret@h/d?sslmode=verify-ca", "sslmode \"verify-ca\" is not known"),
        ("postgres://n:secret@h/d?target_session_attrs=primary", "any, read-write, read-only are"),
        ("postgres://n:secret@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://n:secret%@h/d", "the password: a % has two digits"),
        ("postgres://n:secret%00@h/d", "the password: it has the byte 0"),
        ("postgres://n:secret/secret@h/d", "write @ as %40, / as %2F"),
        ("postgres://n:secret?secret@h/d", "write @ as %40, / as %2F"),
        ("postgres://n:secret", "no user is named"),
        ("mysql://n:secret@h/d", "begins with \"mysql://\", not with postgres://"),
        ("n:secret@h/d", "does not begin with postgres://"),
    ] {
        let error = match parsed(url) {
            Ok(found) => panic!("{url}: {found}"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(said), "{url}: {error}");
        assert!(!error.contains("secret"), "{url}: {error}");
    }
}
