//! A containerd of the test's own: everything it writes is in a temporary folder, and it is ended
//! by its process id. `scripts/lib/containerd.sh` is the same for scripts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lmdb_images::api::version::VersionResponse;
use protobuf::Message;
use tempfile::TempDir;

use crate::support::{Client, channel, channel_for_long_errors, grpc};

/// CRI and NRI would look into folders of the machine. A plugin that a version does not know is no
/// error in the list.
const DISABLED: &str = r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri",
    "io.containerd.podsandbox.controller.v1.podsandbox""#;
/// containerd has this folder built in.
const SHIMS: [&str; 2] = ["/run/containerd/s", "/run/containerd"];
const START: Duration = Duration::from_secs(30);

/// Major, minor and patch.
pub type Version = (u32, u32, u32);

pub struct Containerd {
    child: Child,
    bin: PathBuf,
    dir: TempDir,
    shims_were_there: bool,
    pub version: Version,
}

impl Containerd {
    /// The folder with the program.
    pub fn bin() -> PathBuf {
        std::env::var_os("LMDB_IMAGES_CONTAINERD_BIN")
            .map(PathBuf::from)
            .expect("LMDB_IMAGES_CONTAINERD_BIN names no folder with a containerd")
    }

    pub async fn start(bin: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!(
            r#"version = 2
root = "{path}/root"
state = "{path}/state"
disabled_plugins = [{DISABLED}]
[grpc]
  address = "{path}/c.sock"
[ttrpc]
  address = "{path}/c.sock.ttrpc"
[debug]
  address = "{path}/debug.sock"
  level = "info"
[plugins."io.containerd.internal.v1.opt"]
  path = "{path}/opt"
"#
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let shims_were_there = Path::new(SHIMS[1]).exists();
        let child = spawn(bin, dir.path());
        let (bin, version) = (bin.to_owned(), (0, 0, 0));
        let mut started = Self { child, bin, dir, shims_were_there, version };
        started.version = started.ask_version().await;
        started
    }

    /// SIGKILL. Its data stay.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Starts it once more after a [`kill`](Self::kill), with the same data.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.bin, self.dir.path());
        self.ask_version().await;
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    pub async fn client(&self) -> Client {
        Client::Grpc(channel_for_long_errors(&self.socket()).await.unwrap())
    }

    async fn ask_version(&self) -> Version {
        let channel = channel(&self.socket()).await.unwrap();
        let service = "containerd.services.version.v1.Version";
        let bytes = grpc(&channel, service, "Version", None, Vec::new()).await.unwrap();
        let text = VersionResponse::parse_from_bytes(&bytes).unwrap().version;
        // "1.6.20~ds1", "v2.1.9"
        let mut numbers = text
            .trim_start_matches('v')
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or_else(|_| panic!("containerd's version is {text:?}")));
        let mut next = || numbers.next().unwrap();
        (next(), next(), next())
    }
}

/// Returns when it serves.
fn spawn(bin: &Path, dir: &Path) -> Child {
    let mut child = Command::new(bin.join("containerd"))
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("TMPDIR", dir)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("starting containerd of {}: {e}", bin.display()));
    // Its log shows when it serves. The thread reads the log to its end, so that containerd never waits for a reader.
    let log = BufReader::new(child.stderr.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(START) {
            Ok(line) if line.contains("containerd successfully booted") => return child,
            Ok(line) => seen.push(line),
            Err(e) => {
                let _ = child.kill();
                panic!("containerd does not run ({e}); its log:\n{}", seen.join("\n"));
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It has no containers, so nothing outlives it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.shims_were_there {
            // Only when empty: another's sockets keep them.
            for folder in SHIMS {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}
