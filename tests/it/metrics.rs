//! Every metric is documented, and set by a daemon that has done some of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lmdb_images::api::images::{CreateImageResponse, GetImageRequest, GetImageResponse};
use lmdb_images::daemon::Daemon;
use lmdb_images::daemon::metrics::Address;
use lmdb_images::transport::Limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::support::snapshot_holder::SnapshotHolder;
use crate::support::{Client, IMAGES, Protocol, Served, channel, config, create, grpc, image};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What a daemon that is well has at zero.
const ZERO: [&str; 3] = [
    "lmdb_images_commit_failures_total",
    "lmdb_images_checkpoint_failures_total",
    "lmdb_images_store_set_aside",
];

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn request(address: &Address, line: &str) -> (String, String) {
    let mut stream: Box<dyn Stream> = match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        Address::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
    };
    let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn scrape(daemon: &Daemon) -> String {
    let (head, body) = request(daemon.metrics().unwrap(), "GET /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body
}

/// The sum of the samples that begin so; of a histogram, of its counts.
fn value(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let has_name = |sample: &str| {
        let bare = sample.split('{').next().unwrap();
        bare == name || bare == format!("{name}_count")
    };
    samples.filter(|(s, _)| has_name(s)).map(|(_, v)| v.parse::<f64>().unwrap()).sum()
}

/// The metrics of a scrape, by the names that people ask for.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ').unwrap() {
        (name, "counter") => format!("{name}_total"),
        (name, _) => name.to_owned(),
    };
    types.map(name).collect()
}

/// The metrics of the daemon. The fleet's programs have theirs; tests/shell/dashboards asks for those.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let is_of_fleet =
        |name: &str| name.contains("_images_ship_") || name.contains("_images_collect_");
    rows.filter(|(name, _)| !is_of_fleet(name))
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect()
}

async fn create_image(client: &Client, name: &str) {
    let made: Result<CreateImageResponse, _> =
        client.call("Create", "n", &create(image(name))).await;
    made.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = config(dir.path(), Limits { connections: 16, ..Limits::default() });
    alone.metrics = Some(Address::Unix(dir.path().join("m")));
    let root = alone.root.clone();
    let alone = Served { daemon: Daemon::start(&alone).await.unwrap(), dir };

    let ttrpc = alone.client(Protocol::Ttrpc).await;
    let other = channel(alone.daemon.grpc()).await.unwrap();
    create_image(&ttrpc, "a").await;
    let holder = SnapshotHolder::start(&root, 1);
    create_image(&Client::Grpc(other.clone()), "b").await;
    for (service, method) in [("made.by.Me", "Get"), (IMAGES, "MadeByMe")] {
        grpc(&other, service, method, None, Vec::new()).await.unwrap_err();
    }

    // A daemon alone is enough of a containerd to be followed.
    let before = tempfile::tempdir().unwrap();
    let mut front = config(before.path(), Limits::default());
    front.containerd = Some(alone.daemon.grpc().to_owned());
    front.metrics = Some("127.0.0.1:0".parse().unwrap());
    let front = Daemon::start(&front).await.unwrap();
    let followed = async {
        while value(&scrape(&front).await, "lmdb_images_upstream_resyncs_total") == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, followed).await.unwrap();

    create_image(&Client::Grpc(other.clone()), "c").await;
    let get = GetImageRequest { name: "c".into(), ..Default::default() };
    let through: Result<GetImageResponse, _> =
        Client::grpc(front.grpc()).await.call("Get", "n", &get).await;
    through.unwrap();
    let measured = async {
        while value(&scrape(&front).await, "lmdb_images_upstream_event_lag_seconds") == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, measured).await.unwrap();

    let refused = async {
        let mut many = Vec::new();
        while value(&scrape(&alone.daemon).await, "lmdb_images_connections_refused_total") == 0.0 {
            many.push(UnixStream::connect(alone.daemon.ttrpc()).await.unwrap());
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, refused).await.unwrap();

    let checkpoint = async {
        for (daemon, name) in [
            (&alone.daemon, "lmdb_images_store_oldest_reader_seconds"),
            (&front, "lmdb_images_checkpoint_seconds"),
        ] {
            while value(&scrape(daemon).await, name) == 0.0 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, checkpoint).await.unwrap();

    let (first, second) = (scrape(&alone.daemon).await, scrape(&front).await);
    drop(holder);
    let both = format!("{first}{second}");
    let (found, documented) = (names(&both), documented());
    assert_eq!(found, documented.keys().cloned().collect(), "docs/metrics.md lists each metric");
    for name in &found {
        let set = value(&both, name) > 0.0;
        assert_eq!(set, !ZERO.contains(&name.as_str()), "{name} is never set\n{both}");
    }
    let images = format!("service=\"{IMAGES}\",method=\"Create\",transport=\"ttrpc\",code=\"OK\"");
    let program = std::fs::read_to_string("/proc/self/comm").unwrap();
    let program = program.trim_end();
    for sample in [
        format!("lmdb_images_calls_total{{{images}}} 1"),
        // By both transports.
        format!(
            "client_calls_total{{client=\"{program}\",service=\"{IMAGES}\",method=\"Create\"}} 3"
        ),
        "lmdb_images_store_images{namespace=\"n\"} 3".into(),
        "service=\"other\",method=\"other\",transport=\"grpc\",code=\"UNIMPLEMENTED\"} 1".into(),
        format!(
            "service=\"{IMAGES}\",method=\"other\",transport=\"grpc\",code=\"UNIMPLEMENTED\"}} 1"
        ),
        "lmdb_images_upstream_following 1".into(),
    ] {
        assert!(both.contains(&sample), "{sample}\n{both}");
    }
    assert!(!both.to_lowercase().contains("madebyme") && !both.contains("made.by.Me"), "{both}");

    for (line, status) in [("GET /", "404"), ("POST /metrics", "405"), ("DELETE /x", "404")] {
        let (head, _) = request(alone.daemon.metrics().unwrap(), line).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    front.stop().await;
    drop((ttrpc, other));
    alone.daemon.stop().await;
}

/// Kubernetes asks these pages while containerd, which would run a command in the container, is gone.
#[tokio::test(flavor = "multi_thread")]
async fn without_containerd_the_daemon_is_alive_and_not_healthy() {
    let dir = tempfile::tempdir().unwrap();
    let alone = Daemon::start(&config(dir.path(), Limits::default())).await.unwrap();
    let before = tempfile::tempdir().unwrap();
    let mut front = config(before.path(), Limits::default());
    front.containerd = Some(alone.grpc().to_owned());
    front.metrics = Some("127.0.0.1:0".parse().unwrap());
    let front = Daemon::start(&front).await.unwrap();
    let address = front.metrics().unwrap();
    let becomes = async |page: &str, status: &str, text: &str| {
        let line = format!("GET {page}");
        let asked = async {
            loop {
                let (head, body) = request(address, &line).await;
                if head.starts_with(&format!("HTTP/1.1 {status} ")) && body.starts_with(text) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let outcome = tokio::time::timeout(TEST_TIMEOUT, asked).await;
        assert!(
            outcome.is_ok(),
            "{page} is not {status} {text:?}: {:?}",
            request(address, &line).await
        );
    };
    becomes("/health", "200", "SERVING\n").await;
    becomes("/alive", "200", "alive\n").await;
    let socket = alone.grpc().to_owned();
    alone.stop().await;
    becomes("/health", "503", "NOT_SERVING: containerd at ").await;
    becomes("/alive", "200", "alive\n").await;
    // A containerd that hangs: it accepts no connection.
    let hanging = UnixListener::bind(&socket).unwrap();
    becomes("/health", "503", "NOT_SERVING: containerd at ").await;
    becomes("/alive", "200", "alive\n").await;
    drop(hanging);
    front.stop().await;
}

/// A restart helps against neither, and would disconnect the clients that the daemon answers.
#[tokio::test(flavor = "multi_thread")]
async fn the_checks_need_no_place_at_the_socket_and_no_file_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = config(dir.path(), Limits { connections: 4, ..Limits::default() });
    served.metrics = Some("127.0.0.1:0".parse().unwrap());
    let daemon = Daemon::start(&served).await.unwrap();
    let are_ok = async |while_: &str| {
        for page in ["/health", "/alive"] {
            let (head, body) = request(daemon.metrics().unwrap(), &format!("GET {page}")).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{page} while {while_}: {head}\n{body}");
        }
    };
    let mut idle = Vec::new();
    let full = async {
        while value(&scrape(&daemon).await, "lmdb_images_connections_refused_total") == 0.0 {
            idle.push(UnixStream::connect(daemon.grpc()).await.unwrap());
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, full).await.unwrap();
    are_ok("clients fill the socket").await;
    drop(idle);
    std::fs::remove_file(daemon.grpc()).unwrap();
    are_ok("the socket's file is gone").await;
    let text = scrape(&daemon).await;
    assert_eq!(value(&text, "lmdb_images_calls_total"), 0.0, "a check counts as a call\n{text}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_block_no_scrape() {
    for address in [None, Some("127.0.0.1:0".parse().unwrap())] {
        let dir = tempfile::tempdir().unwrap();
        let mut served = config(dir.path(), Limits::default());
        served.metrics = address.or_else(|| Some(Address::Unix(dir.path().join("m"))));
        let daemon = Daemon::start(&served).await.unwrap();
        let mut held = Vec::new();
        for round in 0..4 {
            // Half of them have begun a request.
            for number in 0..16 {
                let begun = if number % 2 == 0 { "" } else { "GET /metrics HTTP/1.1\r\nhost: " };
                held.push(hold(daemon.metrics().unwrap(), begun).await);
            }
            let scraped = tokio::time::timeout(Duration::from_secs(4), scrape(&daemon)).await;
            assert!(scraped.is_ok(), "round {round}: no answer beside 16 that hold on");
        }
        drop(held);
        daemon.stop().await;
    }
}

async fn hold(address: &Address, begun: &str) -> Box<dyn Stream> {
    let mut stream: Box<dyn Stream> = match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        Address::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
    };
    stream.write_all(begun.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_metrics_socket_in_a_folder_that_others_may_write_in_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let mut refused = config(dir.path(), Limits::default());
    refused.metrics = Some(Address::Unix(open.join("m")));
    let refused = Daemon::start(&refused).await.unwrap_err();
    assert!(refused.message().contains("others may write in the folder"), "{refused}");
    assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0);
}
