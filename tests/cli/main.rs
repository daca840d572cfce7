//! The command line, as the built program: odd files, odd names, odd terminals.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../support/mod.rs"]
mod support;

mod completion;
mod config;
#[cfg(feature = "fleet")]
mod delegate;
mod files;
mod forms;
mod mute;
mod outputs;
mod readonly;
mod records;
mod text;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lmdb_images::model::Namespace;
use lmdb_images::store::{Kind, Store, Transaction};
use protobuf::Message;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lmdb-images");

/// A command that runs for longer hangs.
pub const MAX_SECONDS: &str = "60";

/// The status of a command that was ended because it hung.
pub const HUNG: i32 = 124;

/// The program in an environment of its own, ended when it hangs.
pub fn program(home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", MAX_SECONDS, PROGRAM]).env_clear();
    command.env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("LMDB_IMAGES_CONFIG", empty_config(home));
    command
}

/// A file without settings: that of the machine must not matter.
fn empty_config(home: &Path) -> PathBuf {
    let path = home.join("empty.toml");
    if !path.exists() {
        std::fs::write(&path, "").unwrap();
    }
    path
}

/// Runs the program to its end.
pub fn run<A: AsRef<OsStr>>(home: &Path, args: &[A]) -> Ended {
    Ended(program(home).args(args).output().unwrap())
}

pub struct Ended(pub Output);

impl Ended {
    pub fn status(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Checks that the program ended with this status, and that standard error contains this text.
    pub fn failed(&self, status: i32, says: &str) {
        assert_eq!(self.status(), status, "{}{}", self.out(), self.err());
        assert!(self.err().contains(says), "{:?} is not in {}", says, self.err());
        assert!(!self.err().contains("panicked"), "{}", self.err());
    }

    pub fn worked(&self) -> String {
        assert_eq!(self.status(), 0, "{}{}", self.out(), self.err());
        self.out()
    }
}

/// A store in `root` of a folder of its own, with images of these names in the namespace "default".
pub fn store(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    let images: Vec<_> = names.iter().map(|name| support::image(name)).collect();
    fill(&store, "default", images);
    dir
}

pub fn fill(store: &Store, namespace: &str, images: Vec<lmdb_images::api::images::Image>) {
    let namespace = Namespace::parse(namespace).unwrap();
    let put = move |change: &mut Transaction<'_>| {
        let record = lmdb_images::api::namespace::Namespace {
            name: namespace.to_string(),
            ..Default::default()
        };
        change.put_namespace(&namespace, &record.write_to_bytes().unwrap())?;
        images.iter().try_for_each(|image| {
            let message = image.write_to_bytes().unwrap();
            change.put(&namespace, Kind::Image, &image.name, &message, None)
        })
    };
    store.writer().write_blocking(put).unwrap();
}

/// Arguments, with "ROOT" and "DIR" in them replaced by those of the folder.
pub fn args(dir: &Path, line: &str) -> Vec<std::ffi::OsString> {
    let replaced = |word: &str| {
        let root = dir.join("root");
        let word = word.replace("ROOT", root.to_str().unwrap());
        OsStr::from_bytes(word.replace("DIR", dir.to_str().unwrap()).as_bytes()).to_owned()
    };
    line.split(' ').map(replaced).collect()
}
