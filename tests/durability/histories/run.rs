//! Rounds of several lives of a daemon: clients call it while it is killed and comes back, tools look at
//! its files; then the history of the round is checked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use lmdb_images::store::ReadOnlyStore;
use tokio::runtime::Runtime;

use super::checker::{self, Failure, States};
use super::client::{Client, Connection, Life, NAMESPACE, Recorder};
use super::model::{Call, NAMES, Outcome, State};
use super::tools::{Inspections, Inspector, has_strace};
use crate::support::changelog;
use crate::support::daemon_process::DaemonProcess;

const CLIENT_COUNT: usize = 6;

/// The log keeps all changes of a store.
const LOG_KEEP: (&str, &str) = ("LMDB_IMAGES_LOG_KEEP", "4096");

/// The number of rounds on one store.
const ROUNDS_PER_STORE: u32 = 20;

/// How long a daemon lives, in milliseconds.
const LIFETIME_MS: std::ops::Range<u64> = 20..350;

/// A pause after which the daemon has made a checkpoint, as it had nothing to do.
const PAUSE_LENGTH: Duration = Duration::from_millis(160);

/// What was done.
#[derive(Debug, Default)]
pub struct Figures {
    pub kills: u64,
    pub kills_in_start: u64,
    pub terms: u64,
    pub answered: u64,
    pub in_doubt: u64,
    pub histories: u64,
    /// Of these, those that were checked name by name only.
    pub names_only: u64,
    pub looks: u64,
    pub recovered: u64,
    pub violations: Vec<String>,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "histories: {} kills ({} of them while starting), {} SIGTERMs, {} operations answered, \
             {} in doubt, {} histories checked ({} of them name by name only), {} looks by tools, \
             {} stores recovered, {} violations",
            self.kills,
            self.kills_in_start,
            self.terms,
            self.answered,
            self.in_doubt,
            self.histories,
            self.names_only,
            self.looks,
            self.recovered,
            self.violations.len()
        )
    }
}

/// One store, and the test's knowledge of it.
struct Run {
    runtime: Runtime,
    dir: tempfile::TempDir,
    random: fastrand::Rng,
    strace: bool,
    recorder: Arc<Recorder>,
    /// What the store may hold between rounds.
    states: States,
    figures: Figures,
}

/// Goes on until `kills` daemons were killed, or a violation is found.
pub fn run(kills: u64, seed: u64) -> Figures {
    let strace = has_strace();
    if !strace {
        println!("histories: strace cannot delay reads here: tools are not slowed down");
    }
    let mut run = Run {
        runtime: Runtime::new().unwrap(),
        dir: tempfile::tempdir().unwrap(),
        random: fastrand::Rng::with_seed(seed),
        strace,
        recorder: Arc::default(),
        states: States::from([State::default()]),
        figures: Figures::default(),
    };
    for round in 1.. {
        if let Err(violation) = run.run_round() {
            run.figures.violations.push(violation);
        }
        if run.figures.kills >= kills || !run.figures.violations.is_empty() {
            break;
        }
        if round % ROUNDS_PER_STORE == 0 {
            run.dir = tempfile::tempdir().unwrap();
            run.states = States::from([State::default()]);
            println!("{}", run.figures);
        }
    }
    run.figures
}

impl Run {
    fn run_round(&mut self) -> Result<(), String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut calls = Vec::new();
        let mut inspectors = Vec::new();
        let mut lives = Ok(());
        for life in 0..self.random.u32(1..4) {
            if let Err(violation) = self.run_life(&mut calls, &mut inspectors, &stop, life == 0) {
                lives = Err(violation);
                break;
            }
            if self.random.u32(..5) == 0 {
                self.kill_in_start();
            }
        }
        stop.store(true, SeqCst);
        let inspected: Vec<_> =
            inspectors.into_iter().map(|inspector| inspector.join().unwrap()).collect();
        lives?;
        self.end_calls_in_doubt(&mut calls);
        for inspections in inspected {
            let inspections = inspections?;
            self.figures.looks += inspections.count;
            let seen = inspections.calls.into_iter().map(|call| allow_unanswered(call, &calls));
            calls.extend(seen.collect::<Vec<_>>());
        }
        calls.extend(self.inspector("recover").recover()?);
        self.figures.recovered += 1;
        self.check_log();
        self.check(&calls)
    }

    /// A daemon from its start to its end, with its clients.
    fn run_life(
        &mut self,
        calls: &mut Vec<Call>,
        inspectors: &mut Vec<JoinHandle<Result<Inspections, String>>>,
        stop: &Arc<AtomicBool>,
        first: bool,
    ) -> Result<(), String> {
        let daemon = DaemonProcess::start_in(self.dir.path(), &[(LOG_KEEP.0, LOG_KEEP.1.into())]);
        self.end_calls_in_doubt(calls);
        if first {
            for name in ["tool 1", "tool 2"] {
                let (inspector, stop) = (self.inspector(name), Arc::clone(stop));
                inspectors.push(std::thread::spawn(move || inspector.run(&stop)));
            }
        }
        let life = Arc::new(Life::default());
        let clients: Vec<_> = (0..CLIENT_COUNT).map(|number| self.client(number, &life)).collect();
        self.wait_for_death(&life);
        if self.random.u32(..5) == 0 {
            daemon.stop();
            self.figures.terms += 1;
        } else {
            daemon.kill();
            self.figures.kills += 1;
        }
        let death = self.recorder.tick();
        life.paused.store(false, SeqCst);
        for client in clients {
            let made = self.runtime.block_on(client).unwrap()?;
            let mut count = |call: &Call| self.count(call, death);
            calls.extend(made.into_iter().filter(|call| count(call)));
        }
        Ok(())
    }

    /// Waits as long as the daemon lives, perhaps with a pause of its clients.
    fn wait_for_death(&mut self, life: &Life) {
        let time = |random: &mut fastrand::Rng| Duration::from_millis(random.u64(LIFETIME_MS));
        std::thread::sleep(time(&mut self.random));
        if self.random.u32(..3) == 0 {
            life.paused.store(true, SeqCst);
            std::thread::sleep(PAUSE_LENGTH);
            life.paused.store(false, SeqCst);
            std::thread::sleep(time(&mut self.random) / 4);
        }
    }

    /// Checks that the log of the dead daemon's store leads to the listed images.
    fn check_log(&self) {
        let store = ReadOnlyStore::open(&self.store()).unwrap();
        store.read(|snapshot| Ok(changelog::replay(snapshot, NAMESPACE))).unwrap();
    }

    /// Counts a call, and says whether it can have been made: none was that began after the daemon's
    /// death.
    fn count(&mut self, call: &Call, death: u64) -> bool {
        if call.outcome == Outcome::Unknown {
            self.figures.in_doubt += 1;
            return call.begin < death;
        }
        self.figures.answered += 1;
        true
    }

    /// From now on calls of earlier daemons are made or not. A tool beside a dead daemon may still show
    /// the state before its last checkpoint.
    fn end_calls_in_doubt(&self, calls: &mut [Call]) {
        let now = self.recorder.tick();
        calls.iter_mut().filter(|call| call.end == u64::MAX).for_each(|call| call.end = now);
    }

    /// Starts a daemon and kills it before it serves, as a rule.
    fn kill_in_start(&mut self) {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_lmdb-images"))
            .args([Path::new("serve"), Path::new("--root"), &self.store(), Path::new("--state")])
            .arg(self.dir.path().join("state"))
            .env(LOG_KEEP.0, LOG_KEEP.1)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(self.random.u64(..60_000)));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        self.figures.kills += 1;
        self.figures.kills_in_start += 1;
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn client(
        &mut self,
        number: usize,
        life: &Arc<Life>,
    ) -> tokio::task::JoinHandle<Result<Vec<Call>, String>> {
        let state = self.dir.path().join("state");
        let is_grpc = number.is_multiple_of(2);
        let connect = async move {
            if is_grpc { Connection::grpc(&state).await } else { Connection::ttrpc(&state).await }
        };
        let client = Client {
            name: format!("{} {number}", if is_grpc { "grpc" } else { "ttrpc" }),
            connection: self.runtime.block_on(connect),
            recorder: Arc::clone(&self.recorder),
            life: Arc::clone(life),
            random: self.random.fork(),
        };
        self.runtime.spawn(client.run())
    }

    fn inspector(&mut self, name: &str) -> Inspector {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Inspector {
            name: name.into(),
            store: self.store(),
            dir,
            recorder: Arc::clone(&self.recorder),
            strace: self.strace,
            random: self.random.fork(),
        }
    }

    fn check(&mut self, calls: &[Call]) -> Result<(), String> {
        self.figures.histories += NAMES.len() as u64;
        match checker::check(&self.states, calls) {
            Ok((after, together)) => {
                self.figures.histories += u64::from(together);
                self.figures.names_only += u64::from(!together) * NAMES.len() as u64;
                self.states = after;
                Ok(())
            }
            Err(Failure::Violation(text)) => Err(text),
            Err(Failure::TooLarge) => Err("the history of one name is too large to check".into()),
        }
    }
}

/// A tool reads the journal's file, and so it may see a change that the daemon is still writing, before the
/// daemon shows it to its own clients. So what a tool saw may be explained until the end of the
/// changes that were under way at its end.
fn allow_unanswered(mut inspection: Call, calls: &[Call]) -> Call {
    let end = inspection.end;
    let under_way = calls.iter().filter(|c| c.is_change() && c.begin < end && c.end > end);
    inspection.end = under_way.map(|call| call.end).max().unwrap_or(end);
    inspection
}
