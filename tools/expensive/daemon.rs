//! A daemon of a trial's own, as a process, with its store in a temporary folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::probe::{Watched, fill};

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running daemon, ended when dropped.
pub struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts one with the images that attacks and probes ask for.
    pub fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["serve", "--log", "warn", "--root"])
            .arg(folder.path().join("root"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, folder };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(daemon.ttrpc()).is_err() {
            assert!(begun.elapsed() < START_TIMEOUT, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        fill(&daemon.ttrpc());
        daemon
    }

    pub fn grpc(&self) -> PathBuf {
        self.folder.path().join("state/images.sock")
    }

    pub fn ttrpc(&self) -> PathBuf {
        self.folder.path().join("state/images.sock.ttrpc")
    }

    pub fn watched(&self, other: &Self) -> Watched {
        Watched {
            ttrpc: self.ttrpc(),
            metrics: None,
            pid: self.child.id(),
            folder: self.folder.path().to_owned(),
            other: other.ttrpc(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
