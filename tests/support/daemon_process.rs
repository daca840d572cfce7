//! A daemon as a process of its own, for the tests that kill or starve it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A running daemon, its store and its sockets in one folder. A test that fails prints its log.
pub struct DaemonProcess {
    child: Child,
    errors: mpsc::Receiver<String>,
    /// The last lines, the newest first.
    log: Arc<Mutex<VecDeque<String>>>,
}

/// The most lines of a daemon's log that a test prints when it fails.
const LINES: usize = 200;

impl DaemonProcess {
    /// Starts it and waits until it says that it serves.
    pub fn start(dir: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_lmdb-images")), dir)
    }

    /// The same in an environment.
    pub fn start_in(dir: &Path, environment: &[(&str, OsString)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lmdb-images"));
        command.envs(environment.iter().cloned());
        Self::start_by(command, dir)
    }

    /// Another program.
    pub fn start_other(program: &Path, dir: &Path, environment: &[(&str, OsString)]) -> Self {
        let mut command = Command::new(program);
        command.envs(environment.iter().cloned());
        Self::start_by(command, dir)
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The same with a limit of the shell's `ulimit`: `-n 64`.
    pub fn start_with_limit(dir: &Path, limit: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_lmdb-images"));
        Self::start_by(shell, dir)
    }

    fn start_by(mut command: Command, dir: &Path) -> Self {
        let mut child = command
            .arg("serve")
            .args([
                Path::new("--root"),
                &dir.join("root"),
                Path::new("--state"),
                &dir.join("state"),
            ])
            .env("RUST_LOG", "info,ttrpc=off")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, says) = mpsc::channel();
        let (failed, errors) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::<Mutex<VecDeque<String>>>::default();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.truncate(LINES - 1);
                kept.push_front(line.clone());
                drop(kept);
                // The receiver may be gone.
                if line.contains("serving") {
                    let _ = said.send(());
                } else if line.contains("ERROR") || line.contains("panicked") {
                    let _ = failed.send(line);
                }
            }
        });
        let started = Self { child, errors, log };
        says.recv_timeout(Duration::from_secs(30)).expect("the daemon does not start");
        started
    }

    /// The next error in its log.
    pub fn error(&self) -> String {
        self.errors.recv_timeout(Duration::from_secs(30)).expect("no error in the log")
    }

    /// The errors that came since.
    pub fn more_errors(&self) -> Vec<String> {
        self.errors.try_iter().collect()
    }

    /// The processor time it has used, in hundredths of a second.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// The most memory it has had so far, in MiB, mapped pages of its files with it.
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// Sends SIGTERM. The daemon must finish its work and exit with 0.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }
}

/// No test leaves a daemon behind, however it ends.
impl Drop for DaemonProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log: Vec<_> = self.log.lock().unwrap().iter().rev().cloned().collect();
            eprintln!("the end of the daemon's log:\n{}", log.join("\n"));
        }
    }
}
