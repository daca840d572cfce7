//! A daemon that runs out of file handles does not spin, and serves again when there are some.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::Client;
use crate::support::daemon_process::DaemonProcess;

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_the_daemon_waits_and_then_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = DaemonProcess::start_with_limit(dir.path(), "-n 64");
    let before = Client::ttrpc(&dir.path().join("state/images.sock.ttrpc")).await;
    let spare = UnixStream::connect(dir.path().join("state/images.sock.ttrpc")).unwrap();
    // The system takes connections for the daemon until its backlog is full.
    let many: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(dir.path().join("state/images.sock.ttrpc")).unwrap())
        .collect();
    let error = daemon.error();
    assert!(error.contains("cannot accept a connection"), "{error}");
    // The daemon accepts one connection more and fails again.
    drop(spare);
    // A connected client is served all the while; a daemon that spins uses a whole processor.
    let (since, ticks) = (Instant::now(), daemon.ticks());
    let mut calls = 0u64;
    while since.elapsed() < Duration::from_secs(2) {
        before.raw("List", Some("n"), Vec::new()).await.unwrap();
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let used = daemon.ticks() - ticks;
    assert!(used < 100, "{used} hundredths of a second for {calls} calls in 2 s");
    let more = daemon.more_errors();
    assert!(more.is_empty(), "one line is enough: {more:?}");
    drop(many);
    let after = tokio::time::timeout(Duration::from_secs(30), async {
        let client = Client::ttrpc(&dir.path().join("state/images.sock.ttrpc")).await;
        client.raw("List", Some("n"), Vec::new()).await
    });
    after.await.unwrap().unwrap();
    daemon.kill();
}
