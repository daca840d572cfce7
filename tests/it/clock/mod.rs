//! A daemon and commands on a machine whose clock shows another year than any that is meant: before
//! 1970, or after 9999. A library loaded before libc shows it to them (`clock/clock.c`).

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::support::daemon_process::DaemonProcess;
use crate::support::{BOTH, Client, LEASES, Protocol, channel, create, grpc, image};
use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, ListImagesRequest, ListImagesResponse,
};
use lmdb_images::api::leases::CreateRequest;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

/// The environment in which the clock shows that second.
fn environment_at(dir: &Path, seconds: i64) -> Vec<(&'static str, OsString)> {
    let library = dir.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clock/clock.c");
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let metrics = format!("{}", dir.join("metrics.sock").display());
    vec![
        ("LD_PRELOAD", library.into_os_string()),
        ("CLOCK_SECONDS", seconds.to_string().into()),
        ("LMDB_IMAGES_METRICS_ADDRESS", metrics.into()),
    ]
}

/// One scrape of the metrics: its whole answer.
fn scrape(socket: &Path) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn serves(seconds: i64, stored: i64, past: &str, future: &str) {
    let dir = tempfile::tempdir().unwrap();
    let environment = environment_at(dir.path(), seconds);
    let daemon = DaemonProcess::start_in(dir.path(), &environment);
    let state = dir.path().join("state");
    let grpc_socket = state.join("images.sock");
    for protocol in BOTH {
        let client = match protocol {
            Protocol::Grpc => Client::grpc(&grpc_socket).await,
            Protocol::Ttrpc => Client::ttrpc(&state.join("images.sock.ttrpc")).await,
        };
        for (name, expires) in [("trigger", None), ("past", Some(past)), ("future", Some(future))] {
            let mut image = image(name);
            image.labels = expires
                .map(|when| ("containerd.io/gc.expire".into(), when.into()))
                .into_iter()
                .collect();
            let made: CreateImageResponse =
                client.call("Create", "n", &create(image)).await.unwrap();
            assert_eq!(made.image.created_at.seconds, stored);
        }
        let gone = DeleteImageRequest { name: "trigger".into(), sync: true, ..Default::default() };
        client.call::<Empty>("Delete", "n", &gone).await.unwrap();
        let left: ListImagesResponse =
            client.call("List", "n", &ListImagesRequest::new()).await.unwrap();
        assert_eq!(left.images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["future"]);
        let gone = DeleteImageRequest { name: "future".into(), ..Default::default() };
        client.call::<Empty>("Delete", "n", &gone).await.unwrap();
        client
            .call::<CreateImageResponse>("Create", "m", &create(image(&format!("{protocol:?}"))))
            .await
            .unwrap();
    }
    let channel = channel(&grpc_socket).await.unwrap();
    let lease = CreateRequest::new().write_to_bytes().unwrap();
    grpc(&channel, LEASES, "Create", Some("n"), lease).await.unwrap();
    let socket = dir.path().join("metrics.sock");
    let scraped = tokio::task::spawn_blocking(move || scrape(&socket)).await.unwrap();
    // hyper cannot make its header with the date: that is said.
    assert!(scraped.starts_with("HTTP/1.1 503") && scraped.contains("clock"), "{scraped}");
    let command = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_lmdb-images"))
            .args(arguments)
            .arg("--root")
            .arg(dir.path().join("root"))
            .envs(environment.iter().cloned())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(done.stdout).unwrap()
    };
    assert!(command(&["ls", "-n", "m"]).contains("Grpc"));
    assert!(command(&["ls", "-n", "m", "--json"]).contains("Grpc"));
    let copy = dir.path().join("copy");
    command(&["backup", copy.to_str().unwrap()]);
    assert_eq!(daemon.more_errors(), Vec::<String>::new());
    daemon.stop();
    command(&["restore", "--force", copy.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_works_with_a_clock_before_1970() {
    serves(-1_000_000_000, -1_000_000_000, "1900-01-01T00:00:00Z", "1970-01-01T00:00:00Z").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_works_with_a_clock_after_9999() {
    // The year 31,000; and the last second that protobuf knows, for records.
    serves(915_000_000_000, 253_402_300_799, "9999-12-31T23:59:59Z", "no time is later than that")
        .await;
}
