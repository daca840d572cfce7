//! The servers: started in a folder of their own, ended with it, and what the kernel says of them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Result;
use super::client::{Client, Protocol};
use super::report::repository;

/// What /proc counts in: USER_HZ, a constant of the kernel's interface.
const TICKS: u64 = 100;

/// How long a server may take to answer after its start.
const START: Duration = Duration::from_secs(60);

/// Which program.
#[derive(Clone)]
pub enum Kind {
    /// A containerd, by its program.
    Containerd(PathBuf),
    /// lmdb-images, as this build has it.
    Ours,
    /// The same with the log of changes off.
    OursWithoutLog,
}

impl Kind {
    /// A containerd by its program, or by the version that Debian has.
    pub fn containerd(asked: &Path) -> Result<Self> {
        if asked.components().count() > 1 {
            let program = asked.canonicalize();
            let program = program.map_err(|e| format!("--containerd {}: {e}", asked.display()))?;
            return Ok(Self::Containerd(program));
        }
        let got = Command::new(repository().join("scripts/lib/get-containerd"))
            .arg(asked)
            .stderr(Stdio::inherit())
            .output()?;
        if !got.status.success() {
            return Err(format!(
                "scripts/lib/get-containerd {0} failed; for a program, give its path: ./{0}",
                asked.display()
            )
            .into());
        }
        Ok(Self::Containerd(Path::new(String::from_utf8(got.stdout)?.trim()).join("containerd")))
    }

    /// Name and version, as the program says them.
    pub fn version(&self) -> Result<String> {
        let Self::Containerd(program) = self else { return Ok("lmdb-images".into()) };
        let said = Command::new(program).arg("--version").output()?;
        let said = String::from_utf8(said.stdout)?;
        // containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3
        let version = said.split_whitespace().nth(2).unwrap_or("?");
        let version = version.split(['~', '+']).next().unwrap_or(version);
        Ok(format!("containerd {}", version.trim_start_matches('v')))
    }
}

/// A running server.
pub struct Server {
    kind: Kind,
    dir: PathBuf,
    grpc: PathBuf,
    ttrpc: PathBuf,
    child: Mutex<Child>,
    pid: u32,
}

impl Server {
    /// Starts it in `dir`, which may hold its data from before, and waits for its first answer.
    /// Gives back how long that took.
    pub async fn start(kind: &Kind, dir: &Path) -> Result<(Self, Duration)> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let mut command = match kind {
            Kind::Containerd(program) => containerd(program, &dir)?,
            Kind::Ours => ours(&dir),
            Kind::OursWithoutLog => {
                let mut command = ours(&dir);
                command.args(["--log-keep", "0"]);
                command
            }
        };
        let is_containerd = matches!(kind, Kind::Containerd(_));
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        let child = command.spawn().map_err(|e| format!("starting {command:?}: {e}"))?;
        let grpc = dir.join(if is_containerd { "c.sock" } else { "state/images.sock" });
        let ttrpc = grpc.with_extension("sock.ttrpc");
        let (pid, child) = (child.id(), Mutex::new(child));
        let server = Self { kind: kind.clone(), dir, grpc, ttrpc, child, pid };
        server.answers(start).await?;
        let time = start.elapsed();
        // Ours opens one socket after the other.
        while !server.ttrpc.exists() && !is_containerd {
            server.lives(start, "no ttrpc socket")?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok((server, time))
    }

    async fn answers(&self, start: Instant) -> Result<()> {
        let get = Protocol::Grpc.images("Get", &super::store::get(0))?;
        loop {
            let failed = match Client::connect(Protocol::Grpc, self.socket(Protocol::Grpc)).await {
                Ok(mut client) => match client.call(&get).await {
                    Ok(_) => return Ok(()),
                    // NotFound: an empty store answers, too.
                    Err(e) if e.to_string().starts_with("status 5:") => return Ok(()),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            self.lives(start, &failed.to_string())?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns an error with `wrong` if the server has ended, or should have been ready by now.
    fn lives(&self, start: Instant, wrong: &str) -> Result<()> {
        let ended = self.child.lock().map_err(|_| "poisoned")?.try_wait()?;
        if ended.is_none() && start.elapsed() < START {
            return Ok(());
        }
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let last = log.lines().count().saturating_sub(5);
        let end: Vec<_> = log.lines().skip(last).collect();
        Err(format!("{} does not answer: {wrong}\n{}", self.dir.display(), end.join("\n")).into())
    }

    /// The socket of that protocol.
    pub fn socket(&self, protocol: Protocol) -> &Path {
        match protocol {
            Protocol::Grpc => &self.grpc,
            Protocol::Ttrpc => &self.ttrpc,
        }
    }

    /// Processor time of all its threads, those that have ended too.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name in it may hold blanks and parentheses.
        let (_, rest) = stat.rsplit_once(')').ok_or("no stat")?;
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<std::result::Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// Anonymous memory that is resident, in bytes.
    pub fn anonymous(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        let kib = line.split_whitespace().next().ok_or("no RssAnon")?.parse::<u64>()?;
        Ok(kib << 10)
    }

    /// What its database takes of the disk, in bytes.
    pub fn disk(&self) -> Result<u64> {
        let folder = match self.kind {
            Kind::Containerd(_) => self.dir.join("root/io.containerd.metadata.v1.bolt"),
            Kind::Ours | Kind::OursWithoutLog => self.dir.join("root"),
        };
        let mut blocks = 0;
        for entry in fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            blocks += entry?.metadata()?.blocks();
        }
        Ok(blocks * 512)
    }

    /// Ends it as an admin does and waits for its end.
    pub fn stop(self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.child.lock().map_err(|_| "poisoned")?.wait()?;
        Ok(())
    }
}

/// None outlives the run.
impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ours(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lmdb-images"));
    command.arg("serve").arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    command
}

/// As scripts/lib/containerd.sh configures it: nothing outside its folder, no CRI.
fn containerd(program: &Path, dir: &Path) -> Result<Command> {
    let at = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.podsandbox.controller.v1.podsandbox"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[debug]
  address = "{debug}"
  level = "info"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
"#,
        root = at("root"),
        state = at("run"),
        socket = at("c.sock"),
        debug = at("debug.sock"),
        opt = at("opt"),
    );
    let file = dir.join("config.toml");
    fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("--config").arg(file).env_remove("NOTIFY_SOCKET").env("TMPDIR", dir);
    Ok(command)
}
