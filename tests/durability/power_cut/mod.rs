//! Power cuts. The test records the writes and syncs of a daemon under load to its data file and its journal. For each
//! point between two of these calls it builds the states that a power cut may leave on the disk: all synced bytes, and
//! any part of the others, torn at 4 KiB and at 512 bytes. Each state is verified and opened. Every answered write must
//! be there, any other write must be there whole or not at all, and for `check` index and records must agree. The log
//! must have every answered change once, and its changes must lead to the listed images.
//!
//! The recorder is a small C library that is preloaded into the daemon (`record.c`). `disk` builds the states of a
//! disk; `load` has the clients. Part of the load runs while a sync, or the write of a
//! meta page or of an entry of the journal, fails, and over a SIGKILL.
//!
//! `LMDB_IMAGES_POWER_STATES` says how many states are checked between two calls, if there are
//! more (default 3, for each way to tear), `LMDB_IMAGES_POWER_WRITES` how many changes are made in
//! each part of the load (default 6), `LMDB_IMAGES_SEED` repeats a run's choices (not its timing).

mod disk;
mod load;
mod migration;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use lmdb_images::api::images::{CreateImageResponse, Image};
use lmdb_images::model::Namespace;
use lmdb_images::store::{Kind, Records, Store};
use protobuf::Message;

use self::disk::{DiskEntry, Disks, PAGE, SECTOR, State};
use self::load::{Change, Writer, allowed};
use crate::support::changelog;
use crate::support::daemon_process::DaemonProcess;
use crate::support::settings::{seed, setting};
use crate::support::workload::{Content, NAMESPACE, content, whole};
use crate::support::{self, Client};

const CLIENTS: u64 = 4;
const NAMES: u64 = 6;

/// A daemon that is recorded.
struct Recorded {
    dir: PathBuf,
    log: PathBuf,
    fail: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Recorded {
    fn new(dir: &Path) -> Self {
        let library = dir.join("record.so");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durability/power_cut/record.c");
        let built = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(built.success());
        // As the daemon knows them.
        let dir = dir.canonicalize().unwrap();
        let (log, fail) = (dir.join("record"), dir.join("fail"));
        let environment = vec![
            ("LD_PRELOAD", library.into_os_string()),
            ("RECORD_FILE", dir.join("root/data.mdb").into_os_string()),
            ("RECORD_LOG", log.clone().into_os_string()),
            ("RECORD_FAIL", fail.clone().into_os_string()),
            // So that the log keeps all changes.
            ("LMDB_IMAGES_LOG_KEEP", "4096".into()),
        ];
        Self { dir, log, fail, environment }
    }

    fn start(&self) -> DaemonProcess {
        DaemonProcess::start_in(&self.dir, &self.environment)
    }

    /// The next call of that kind fails: "sync", "meta" or "journal".
    fn fail(&self, what: &str) {
        std::fs::write(self.dir.join("armed"), what).unwrap();
        std::fs::rename(self.dir.join("armed"), &self.fail).unwrap();
    }

    /// Goes on until that call has been made: by a change, by the checkpoint that follows when
    /// there is none for a moment, or when a client's request has the store opened again.
    async fn met(&self, client: &Client, writer: &mut Writer) {
        let met = async {
            while self.fail.exists() {
                writer.write(client, 1, true).await;
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
    }

    /// All clients at once, half of them on each protocol.
    async fn all_write(&self, writers: &mut Vec<Writer>, changes: usize, faulty: bool) {
        let mut running = tokio::task::JoinSet::new();
        for mut writer in writers.drain(..) {
            let client = match writer.id % 2 {
                0 => Client::grpc(&self.dir.join("state/images.sock")).await,
                _ => Client::ttrpc(&self.dir.join("state/images.sock.ttrpc")).await,
            };
            running.spawn(async move {
                writer.write(&client, changes, faulty).await;
                writer
            });
        }
        writers.extend(running.join_all().await);
        writers.sort_by_key(|w| w.id);
    }

    /// The load: gives the log, and all that was asked and answered.
    async fn run(&self, seed: u64, changes: usize) -> (Vec<(u64, usize, DiskEntry)>, Vec<Change>) {
        let mut writers: Vec<_> = (0..CLIENTS)
            .map(|id| Writer {
                id,
                names: NAMES,
                random: Rng::with_seed(seed ^ (id + 1)),
                next: 0,
                log: self.log.clone(),
                changes: Vec::new(),
                stored: BTreeMap::new(),
            })
            .collect();
        let daemon = self.start();
        let client = Client::grpc(&self.dir.join("state/images.sock")).await;
        // Alone, an answer comes before anything else is written.
        writers[0].write(&client, changes, false).await;
        self.all_write(&mut writers, changes, false).await;
        for what in ["journal", "sync", "meta", "journal", "meta", "sync"] {
            self.fail(what);
            writers[0].write(&client, changes, true).await;
            self.met(&client, &mut writers[0]).await;
            self.fail(what);
            self.all_write(&mut writers, changes / 2, true).await;
            self.met(&client, &mut writers[0]).await;
        }
        daemon.stop();
        self.nothing_escaped();

        let daemon = self.start();
        let killed = async {
            // Somewhere under the load.
            let until = self.log.metadata().unwrap().len() + 300_000;
            while self.log.metadata().unwrap().len() < until {
                tokio::task::yield_now().await;
            }
            daemon.kill();
        };
        tokio::join!(self.all_write(&mut writers, usize::MAX, false), killed);
        // An entry that the killed process had not finished stands for a call it had not made.
        let whole = DiskEntry::all(&std::fs::read(&self.log).unwrap()).last().unwrap().0;
        std::fs::File::options().write(true).open(&self.log).unwrap().set_len(whole).unwrap();
        let daemon = self.start();
        let client = Client::grpc(&self.dir.join("state/images.sock")).await;
        for writer in &mut writers {
            writer.look(&client).await;
        }
        self.all_write(&mut writers, changes, false).await;
        daemon.stop();
        let log = DiskEntry::all(&std::fs::read(&self.log).unwrap());
        (log, writers.into_iter().flat_map(|w| w.changes).collect())
    }

    /// The log leads to the file that is there.
    fn nothing_escaped(&self) {
        let mut disks = Disks::default();
        for (_, file, entry) in DiskEntry::all(&std::fs::read(&self.log).unwrap()) {
            disks.apply(file, &entry);
        }
        for (disk, file) in [(disks.data, "data.mdb"), (disks.journal, "journal")] {
            assert!(disk.memory() == std::fs::read(self.dir.join("root").join(file)).unwrap());
        }
    }
}

/// What a state has: the content of each name, and those that its log tells of.
type Contents = (BTreeMap<String, u64>, BTreeMap<String, Vec<Content>>);

/// Opens a state and returns its content.
fn contents(root: &Path, data: Option<&[u8]>, journal: Option<&[u8]>) -> Contents {
    // The state before may have been that of another store.
    for (file, state) in [("store-id", None), ("data.mdb", data), ("journal", journal)] {
        match state {
            Some(state) => std::fs::write(root.join(file), state).unwrap(),
            None => drop(std::fs::remove_file(root.join(file))),
        }
    }
    // Of the state looked at before. LMDB makes it after the data file has its name on the disk.
    let _ = std::fs::remove_file(root.join("lock.mdb"));
    let store = Store::open(root).unwrap();
    let namespace = Namespace::parse(NAMESPACE).unwrap();
    let read = store.read(|snapshot| {
        let logged = changelog::logged(snapshot);
        let found: lmdb_images::model::Result<_> = snapshot
            .scan(&namespace, Kind::Image)?
            .map(|entry| {
                let image = Image::parse_from_bytes(entry?.message()?).unwrap();
                Ok((image.name.clone(), content(&image)))
            })
            .collect();
        Ok((found?, logged))
    });
    drop(store);
    whole(root);
    read.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_write_survives_a_power_cut() {
    let most = setting("LMDB_IMAGES_POWER_STATES").unwrap_or(3) as usize;
    let changes = setting("LMDB_IMAGES_POWER_WRITES").unwrap_or(6) as usize;
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let (log, changes) = Recorded::new(dir.path()).run(seed, changes).await;

    // A file system in memory, if there is one: thousands of stores are opened, and synced.
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let root = tempfile::tempdir_in(place).unwrap();
    let mut random = Rng::with_seed(seed);
    let mut disks = Disks::default();
    let (mut states, mut syncs) = (0_u64, 0);
    let mut lost = Vec::new();
    for (at, file, entry) in &log {
        disks.apply(*file, entry);
        syncs += u64::from(!matches!(entry, DiskEntry::Write { outcome: disk::Write::Plain, .. }));
        let may: BTreeMap<_, _> = (0..CLIENTS)
            .flat_map(|id| (0..NAMES).map(move |n| format!("{id}/{n}")))
            .map(|name| (allowed(changes.iter().filter(|c| c.name == name), *at), name))
            .map(|(may, name)| (name, may))
            .collect();
        let mut look = |data: State<'_>, journal: State<'_>| {
            states += 1;
            let (found, logged) = contents(root.path(), data, journal);
            assert!(found.keys().all(|name| may.contains_key(name)), "{found:?}");
            for (name, may) in &may {
                let found = found.get(name).copied();
                let asked = load::logged(changes.iter().filter(|c| c.name == *name), *at);
                let log = logged.get(name).map_or(&[][..], Vec::as_slice);
                if !changelog::explains(asked, log) {
                    lost.push(format!("{name}: the log has {log:?} at {at}"));
                }
                if !may.contains(&found) {
                    lost.push(format!("{name}: found {found:?}, may be {may:?}, log at {at}"));
                }
            }
        };
        let mut pick = |below: usize| random.u64(..below as u64) as usize;
        for unit in [PAGE, SECTOR] {
            disks.states(unit, most, &mut pick, &mut look);
        }
    }
    println!(
        "{} changes asked, {} calls recorded, {syncs} of them syncs: {states} states, {} lost",
        changes.len(),
        log.len(),
        lost.len(),
    );
    assert!(lost.is_empty(), "{:#?}", &lost[..lost.len().min(10)]);
}

/// A command that reads beside the daemon shows only changes that are on disk. An entry of the journal may be written
/// and not synced yet, and a power cut would undo a change that was shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_syncs_what_it_read_before_it_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = Recorded::new(dir.path());
    let daemon = DaemonProcess::start(&recorded.dir);
    let client = Client::grpc(&recorded.dir.join("state/images.sock")).await;
    let made = support::create(support::image("shown"));
    client.call::<CreateImageResponse>("Create", NAMESPACE, &made).await.unwrap();
    let ls = || {
        Command::new(env!("CARGO_BIN_EXE_lmdb-images"))
            .args(["ls", "-n", NAMESPACE, "--root"])
            .arg(recorded.dir.join("root"))
            .envs(recorded.environment.iter().cloned())
            .output()
            .unwrap()
    };
    let done = ls();
    assert!(String::from_utf8_lossy(&done.stdout).contains("shown"), "{done:?}");
    let synced: BTreeSet<usize> = std::fs::read(&recorded.log)
        .map(|log| DiskEntry::all(&log).into_iter().map(|(_, file, _)| file).collect())
        .unwrap();
    assert_eq!(synced, [0, 1].into(), "data file and journal");
    for what in ["sync", "reader"] {
        recorded.fail(what);
        let done = ls();
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            !done.status.success() && message.contains("may not be on the disk"),
            "{what}: {message}"
        );
        assert!(!String::from_utf8_lossy(&done.stdout).contains("shown"), "{what}: {done:?}");
    }
    daemon.stop();
}
