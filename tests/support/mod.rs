//! What the tests over real sockets share: a daemon in this process, and a client.

#![allow(dead_code)] // No program uses all of it.

pub mod catalog;
pub mod changelog;
pub mod client;
pub mod containerd;
pub mod daemon_process;
pub mod fake_containerd;
pub mod random;
pub mod settings;
pub mod snapshot_holder;
pub mod workload;

use std::path::Path;
use std::process::Command;

pub use client::*;
use lmdb_images::daemon::{Config, Daemon};
use lmdb_images::transport::Limits;
use tempfile::TempDir;

/// A daemon with a store of its own, in a folder of its own.
pub struct Served {
    pub daemon: Daemon,
    pub dir: TempDir,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), limits);
        Self { daemon: Daemon::start(&config).await.unwrap(), dir }
    }

    pub async fn client(&self, protocol: Protocol) -> Client {
        match protocol {
            Protocol::Grpc => Client::grpc(self.daemon.grpc()).await,
            Protocol::Ttrpc => Client::ttrpc(self.daemon.ttrpc()).await,
        }
    }
}

pub fn config(dir: &Path, limits: Limits) -> Config {
    Config {
        root: dir.join("root"),
        state: dir.join("state"),
        containerd: None,
        gid: None,
        readonly: false,
        readonly_gid: None,
        metrics: None,
        limits,
        reply_budget: lmdb_images::transport::limits::DEFAULT_MEMORY_BUDGET,
        log_keep: lmdb_images::store::Retention::default(),
        undo_keep: None,
    }
}

/// One ignored test of this program in a process of its own.
pub fn rerun(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}
