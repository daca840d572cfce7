//! Rounds of calls, each with a disturbance, and the check after each.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Caller, Calls, NAMES, NAMESPACES, Recorder, SOURCE, run};
use super::operation::{ABSENT, Value};
use super::register;
use crate::support::containerd::Containerd;
use crate::support::daemon_process::DaemonProcess;
use crate::support::random::{Draw, Rng};
use crate::support::settings::{seed, setting};
use crate::support::{IMAGES, channel, create, grpc, image};

/// How long the clients of a round call.
const ROUND: Duration = Duration::from_secs(2);

/// How long a daemon is down or stopped.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Calls that a round ends with at the latest: each is kept until it is checked.
const MAX_CALLS: u64 = 200_000;

/// What happens in the middle of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    Nothing,
    KillDaemon,
    KillContainerd,
    KillBoth,
    /// The same, and the daemon starts first.
    KillBothDaemonFirst,
    /// The daemon is stopped for a moment, so its events are late.
    PauseDaemon,
    /// containerd is killed, starts again, answers some clients and hangs for a moment, while the daemon is
    /// stopped at first.
    HangAfterStart,
}

const DISTURBANCES: [Disturbance; 10] = [
    Disturbance::Nothing,
    Disturbance::Nothing,
    Disturbance::Nothing,
    Disturbance::PauseDaemon,
    Disturbance::PauseDaemon,
    Disturbance::KillDaemon,
    Disturbance::KillContainerd,
    Disturbance::KillBoth,
    Disturbance::KillBothDaemonFirst,
    Disturbance::HangAfterStart,
];

struct World {
    containerd: Containerd,
    daemon: Option<DaemonProcess>,
    dir: TempDir,
    /// What each name may be.
    values: Vec<HashSet<Value>>,
}

impl World {
    async fn start(bin: &Path) -> Self {
        let containerd = Containerd::start(bin).await;
        let dir = tempfile::tempdir().unwrap();
        let values = vec![HashSet::from([ABSENT]); NAMESPACES.len() * NAMES.len()];
        let mut world = Self { containerd, daemon: None, dir, values };
        world.start_daemon();
        let channel = channel(&world.containerd.socket()).await.unwrap();
        let mut source = image(SOURCE.0);
        source.target.mut_or_insert_default().size = i64::from(SOURCE.1);
        source.target.mut_or_insert_default().digest = format!("sha256:{:064x}", SOURCE.1 % 3);
        let request = protobuf::Message::write_to_bytes(&create(source)).unwrap();
        grpc(&channel, IMAGES, "Create", Some(NAMESPACES[0]), request).await.unwrap();
        world
    }

    fn start_daemon(&mut self) {
        let environment = [
            ("LMDB_IMAGES_CONTAINERD", self.containerd.socket().into_os_string()),
            ("LMDB_IMAGES_READONLY", OsString::from("true")),
        ];
        self.daemon = Some(match std::env::var_os("LMDB_IMAGES_LINEARIZABLE_DAEMON") {
            Some(other) => {
                DaemonProcess::start_other(other.as_ref(), self.dir.path(), &environment)
            }
            None => DaemonProcess::start_in(self.dir.path(), &environment),
        });
    }

    fn callers(&self) -> Vec<Caller> {
        let ours = |name, socket: &str, calls| Caller {
            name,
            socket: self.dir.path().join("state").join(socket),
            is_ttrpc: socket.ends_with("ttrpc"),
            calls,
        };
        let direct =
            |name, calls| Caller { name, socket: self.containerd.socket(), is_ttrpc: false, calls };
        vec![
            direct("direct 1", Calls::All),
            direct("direct 2", Calls::All),
            ours("containerd.sock 1", "containerd.sock", Calls::All),
            ours("containerd.sock 2", "containerd.sock", Calls::Reads),
            ours("images.sock", "images.sock", Calls::Images),
            ours("images.sock.ttrpc", "images.sock.ttrpc", Calls::Images),
            ours("readonly.sock", "readonly.sock", Calls::Reads),
        ]
    }

    async fn disturb(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Nothing => {}
            Disturbance::PauseDaemon => {
                self.daemon.as_ref().unwrap().signal("STOP");
                tokio::time::sleep(A_MOMENT).await;
                self.daemon.as_ref().unwrap().signal("CONT");
            }
            Disturbance::KillDaemon => {
                drop(self.daemon.take());
                self.start_daemon();
            }
            Disturbance::KillContainerd => {
                self.containerd.kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                self.containerd.start_again().await;
            }
            Disturbance::KillBoth => {
                self.containerd.kill();
                drop(self.daemon.take());
                self.containerd.start_again().await;
                self.start_daemon();
            }
            Disturbance::KillBothDaemonFirst => {
                drop(self.daemon.take());
                tokio::time::sleep(A_MOMENT).await;
                self.containerd.kill();
                self.start_daemon();
                tokio::time::sleep(A_MOMENT).await;
                self.containerd.start_again().await;
            }
            Disturbance::HangAfterStart => {
                self.daemon.as_ref().unwrap().signal("STOP");
                self.containerd.kill();
                self.containerd.start_again().await;
                tokio::time::sleep(A_MOMENT).await;
                self.containerd.signal("STOP");
                self.daemon.as_ref().unwrap().signal("CONT");
                tokio::time::sleep(A_MOMENT).await;
                self.containerd.signal("CONT");
            }
        }
    }

    /// One round. Returns the number of its calls.
    async fn round(&mut self, rng: &mut Rng, number: u64) -> u64 {
        let recorder = Arc::new(Recorder::new(self.containerd.version >= (2, 0, 0)));
        let disturbance = rng.one(&DISTURBANCES);
        let clients: Vec<_> = self
            .callers()
            .into_iter()
            .map(|caller| {
                let (recorder, rng) = (Arc::clone(&recorder), rng.fork());
                tokio::spawn(async move { run(&caller, &recorder, rng).await })
            })
            .collect();
        let end = Instant::now() + ROUND;
        tokio::time::sleep(ROUND / 3).await;
        self.disturb(disturbance).await;
        while Instant::now() < end && recorder.operations.load(SeqCst) < MAX_CALLS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        recorder.stop.store(true, SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        // A change that was cut off may still be under way in containerd.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let last = recorder.tick();
        for (place, operations) in recorder.registers.iter().enumerate() {
            let mut operations = std::mem::take(&mut *operations.lock().unwrap());
            operations.iter_mut().for_each(|one| one.end = one.end.min(last));
            let before = std::mem::take(&mut self.values[place]);
            self.values[place] = register::check(before, &operations).unwrap_or_else(|why| {
                let (ns, name) = (NAMESPACES[place / NAMES.len()], NAMES[place % NAMES.len()]);
                panic!("round {number} ({disturbance:?}), {name} in {ns}: {why}")
            });
        }
        recorder.operations.load(SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_read_through_us_is_never_older_than_an_answer_of_containerd() {
    let seed = seed();
    let seconds = setting("LMDB_IMAGES_LINEARIZABLE_SECONDS").unwrap_or(0);
    let mut rng = Rng::with_seed(seed);
    let mut world = World::start(&Containerd::bin()).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut calls) = (0, 0);
    while rounds < 2 || Instant::now() < end {
        println!("round {rounds} after {calls} calls");
        calls += world.round(&mut rng, rounds).await;
        rounds += 1;
    }
    println!("{calls} calls in {rounds} rounds, no violation");
}
