//! The messages to systemd (ready, alive, stopping) on a real NOTIFY_SOCKET, from a real process.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lmdb-images");

/// A daemon that systemd might have started. It is killed however the test ends. A test that fails prints its log.
struct Service {
    child: Child,
    socket: UnixDatagram,
    log: PathBuf,
}

impl Service {
    fn start(dir: &Path, watchdog: Duration) -> Self {
        let (path, log) = (dir.join("notify"), dir.join("log"));
        let socket = UnixDatagram::bind(&path).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, socket, log }
    }

    /// The next message within `time`.
    fn next(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// Waits for a message with `part` in it.
    fn wait_for(&self, part: &str) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            match self.next(Duration::from_secs(30)) {
                Some(message) if message.contains(part) => return message,
                _ => {}
            }
        }
        panic!("systemd gets no {part}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
        }
    }
}

fn health(dir: &Path) -> Option<i32> {
    let asked = Command::new(PROGRAM).arg("health").arg("--state").arg(dir.join("state")).output();
    asked.unwrap().status.code()
}

#[test]
fn ready_alive_and_stopping_are_notified() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(dir.path(), Duration::from_secs(1));
    let ready = service.wait_for("READY=1");
    assert!(ready.contains(&format!("STATUS=serving {}/root", dir.path().display())), "{ready}");
    assert_eq!(health(dir.path()), Some(0), "ready means that calls are answered");
    service.wait_for("WATCHDOG=1");
    service.wait_for("WATCHDOG=1");
    kill(Pid::from_raw(i32::try_from(service.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    service.wait_for("STOPPING=1");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn a_store_that_hangs_stops_the_watchdog_notifications() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), Duration::from_secs(1));
    service.wait_for("WATCHDOG=1");

    // The daemon's writer thread hangs while another process holds LMDB's lock of writers.
    let options = heed::EnvOpenOptions::new();
    // SAFETY: the daemon changes the file through LMDB only, and so do we.
    let env = unsafe { options.open(dir.path().join("root")) }.unwrap();
    let lock = env.write_txn().unwrap();
    service.wait_for("the store did not answer within 5s");
    assert_eq!(health(dir.path()), Some(1));
    // Longer than the store is waited for once: a sign of life would come after that.
    while let Some(message) = service.next(Duration::from_secs(7)) {
        assert!(!message.contains("WATCHDOG=1"), "the watchdog gets its message");
    }

    drop(lock);
    service.wait_for("WATCHDOG=1");
    assert_eq!(health(dir.path()), Some(0));
}

#[test]
fn a_daemon_whose_folder_is_gone_is_not_restarted_and_says_why_it_does_not_serve() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), Duration::from_secs(1));
    service.wait_for("WATCHDOG=1");
    std::fs::rename(dir.path().join("root"), dir.path().join("away")).unwrap();
    service.wait_for("the store's files are no longer those in");
    assert_eq!(health(dir.path()), Some(1));
    service.wait_for("WATCHDOG=1");
    service.wait_for("WATCHDOG=1");
}

#[test]
fn a_notify_socket_that_is_not_read_delays_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(dir.path(), Duration::from_millis(20));
    service.wait_for("WATCHDOG=1");
    // From here on the listener does not read, and its socket has no room for the daemon's next message.
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"STATUS=full", dir.path().join("notify")).is_ok() {}
    for _ in 0..10 {
        assert_eq!(health(dir.path()), Some(0));
    }
    kill(Pid::from_raw(i32::try_from(service.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(service.child.wait().unwrap().success());
}
