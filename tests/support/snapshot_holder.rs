//! Another process that reads the store: this test program again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use lmdb_images::model::Result;
use lmdb_images::store::ReadOnlyStore;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that holds snapshots of a store until it is dropped.
pub struct SnapshotHolder(Child);

impl SnapshotHolder {
    pub fn start(root: &Path, snapshots: usize) -> Self {
        let mut child = super::rerun("support::snapshot_holder::hold_snapshots")
            .env("HOLD_ROOT", root)
            .env("HOLD_SNAPSHOTS", snapshots.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // What it writes to stderr, the test's stderr has.
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let is_held = output.any(|line| {
            said.push(line);
            said.iter().any(|line| line.contains("held"))
        });
        assert!(is_held, "it does not hold:\n{}", said.join("\n"));
        Self(child)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for SnapshotHolder {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "run by other tests, as another process"]
fn hold_snapshots() {
    let Some(root) = std::env::var_os("HOLD_ROOT") else { return };
    let reader = ReadOnlyStore::open(Path::new(&root)).unwrap();
    let snapshots = std::env::var("HOLD_SNAPSHOTS").unwrap().parse().unwrap();
    hold(&reader, snapshots).unwrap();
}

fn hold(reader: &ReadOnlyStore, snapshots: usize) -> Result<()> {
    if snapshots > 0 {
        return reader.read(|_| hold(reader, snapshots - 1));
    }
    println!("held");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or the process that started it has ended.
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}
