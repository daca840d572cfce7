//! The kill test. Clients write over both protocols without a pause. The test ends the daemon at random moments, by
//! SIGKILL or by SIGTERM, and starts it again on the same store. Every client that comes back must find all of its
//! answered writes, and a write without an answer whole or not at all. A List by labels, which uses the index, must find
//! the same images, and `check` in between must find no damage. The log must have every answered change once, and its
//! changes must lead to the listed images.
//!
//! `LMDB_IMAGES_KILL_ROUNDS` says how often (default 30), `LMDB_IMAGES_SEED` repeats a run's choices.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use lmdb_images::api::images::{
    GetImageRequest, GetImageResponse, ListImagesRequest, ListImagesResponse,
};
use lmdb_images::store::ReadOnlyStore;
use tokio::sync::{mpsc, watch};

use crate::support::changelog::{self, Is};
use crate::support::daemon_process::DaemonProcess;
use crate::support::settings::{seed, setting};
use crate::support::workload::{Content, NAMESPACE, change, content, whole};
use crate::support::{Client, Failed};

const CLIENTS: usize = 16;
const NAMES: u64 = 6;

/// What a client saw.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// A write was answered.
    Answer,
    /// A client has read all its names after a restart: how many it found, and whether a write was in
    /// doubt.
    Restart { found: usize, in_doubt: bool },
}

/// A client, and its knowledge of its own names.
struct Writer {
    id: usize,
    random: Rng,
    next: u64,
    answered: HashMap<String, Content>,
    unanswered: Option<(String, Content)>,
    /// All changes, in order.
    asked: Vec<(String, Content, Is)>,
    seen: mpsc::UnboundedSender<Seen>,
}

impl Writer {
    /// Writes until the daemon has ended, waits for the next daemon, and checks its images; until there is no next one.
    async fn run(mut self, dir: PathBuf, mut daemons: watch::Receiver<u64>) -> Self {
        while daemons.changed().await.is_ok() {
            let connected = match self.id % 2 {
                0 => Client::grpc(&dir.join("state/images.sock")).await,
                _ => Client::ttrpc(&dir.join("state/images.sock.ttrpc")).await,
            };
            let lost = async {
                self.look(&connected).await?;
                // A connection of gRPC comes back by itself: the next daemon may be there before
                // the loss of the last was met.
                while !daemons.has_changed().unwrap_or(true) {
                    self.write(&connected).await?;
                    let _ = self.seen.send(Seen::Answer);
                }
                Ok(())
            };
            // The daemon has ended. If it had answered with an error, that would be a fault.
            let end: Result<(), Failed> = lost.await;
            if let Err(end) = end {
                assert!([-1, 1, 2, 14].contains(&end.code), "{end:?}");
            }
        }
        self
    }

    async fn write(&mut self, client: &Client) -> Result<(), Failed> {
        let name = format!("{}/{}", self.id, self.random.u64(..NAMES));
        let exists = self.answered.get(&name).copied().flatten().is_some();
        self.next += 1;
        let number = self.next * CLIENTS as u64 + self.id as u64;
        let new = (!exists || self.random.u64(..3) > 0).then_some(number);
        self.unanswered = Some((name.clone(), new));
        let answered = change(client, &name, exists, new).await;
        let is = if answered.is_ok() { Is::Made } else { Is::InDoubt };
        self.asked.push((name.clone(), new, is));
        answered?;
        self.unanswered = None;
        self.answered.insert(name, new);
        Ok(())
    }

    /// The stored content of a name must be that of the last answered write, or of the write without an answer.
    fn check(&self, name: &str, found: Content) -> Result<(), String> {
        let answered = self.answered.get(name).copied().flatten();
        let in_doubt = self.unanswered.as_ref().is_some_and(|(n, c)| n == name && *c == found);
        if found == answered || in_doubt {
            return Ok(());
        }
        let unanswered = &self.unanswered;
        Err(format!("{name}: answered {answered:?}, found {found:?}, in doubt {unanswered:?}"))
    }

    /// Compares each name of this client with the stored images.
    async fn look(&mut self, client: &Client) -> Result<(), Failed> {
        let mut stored = HashMap::new();
        for key in 0..NAMES {
            let name = format!("{}/{key}", self.id);
            let found: Result<GetImageResponse, _> = client
                .call(
                    "Get",
                    NAMESPACE,
                    &GetImageRequest { name: name.clone(), ..Default::default() },
                )
                .await;
            match found {
                Ok(found) => drop(stored.insert(name, content(&found.image))),
                Err(f) if f.is(tonic::Code::NotFound) => {}
                Err(f) => return Err(f),
            }
        }
        for key in 0..NAMES {
            let name = format!("{}/{key}", self.id);
            let found = stored.get(&name).copied();
            self.check(&name, found).unwrap();
            self.answered.insert(name, found);
        }
        let filters = stored
            .iter()
            .map(|(name, content)| format!("name==\"{name}\",labels.content=={content}"));
        let asked = ListImagesRequest { filters: filters.collect(), ..Default::default() };
        if !stored.is_empty() {
            let listed: ListImagesResponse = client.call("List", NAMESPACE, &asked).await?;
            let listed: HashMap<_, _> =
                listed.images.iter().map(|image| (image.name.clone(), content(image))).collect();
            assert_eq!(listed, stored, "what the index leads to");
        }
        let in_doubt = self.unanswered.take().is_some();
        let _ = self.seen.send(Seen::Restart { found: stored.len(), in_doubt });
        Ok(())
    }
}

/// All images of a daemon. No client writes to it now.
async fn list(dir: &Path) -> HashMap<String, u64> {
    let client = Client::grpc(&dir.join("state/images.sock")).await;
    let listed: ListImagesResponse =
        client.call("List", NAMESPACE, &ListImagesRequest::new()).await.unwrap();
    listed.images.iter().map(|image| (image.name.clone(), content(image))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_write_survives_a_restart() {
    let rounds = setting("LMDB_IMAGES_KILL_ROUNDS").unwrap_or(30);
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let (daemons, next) = watch::channel(0);
    let (seen, mut sees) = mpsc::unbounded_channel();
    let mut running = tokio::task::JoinSet::new();
    for id in 0..CLIENTS {
        let writer = Writer {
            id,
            random: Rng::with_seed(seed ^ (id as u64 + 1)),
            next: 0,
            answered: HashMap::new(),
            unanswered: None,
            asked: Vec::new(),
            seen: seen.clone(),
        };
        running.spawn(writer.run(dir.path().to_owned(), next.clone()));
    }
    drop((seen, next));
    let (mut answered, mut in_doubt, mut looked_at) = (0, 0, 0);
    let mut count = |seen: &Seen| match seen {
        Seen::Answer => answered += 1,
        Seen::Restart { found, in_doubt: doubt } => {
            looked_at += found;
            in_doubt += usize::from(*doubt);
        }
    };
    // So that the log keeps all changes.
    let keep = [("LMDB_IMAGES_LOG_KEEP", "4096".into())];
    let mut killed = 0;
    for round in 0..=rounds {
        if round > 0 && round % 100 == 0 {
            println!("round {round}");
        }
        let daemon = DaemonProcess::start_in(dir.path(), &keep);
        daemons.send_replace(round);
        // All have looked, and some have written.
        let (mut restarts, mut answers) = (0, 0);
        let until = random.u64(..400);
        while restarts < CLIENTS || answers < until {
            // A client that has found a fault has ended.
            let seen = tokio::select! {
                Some(seen) = sees.recv() => seen,
                Some(ended) = running.join_next() => ended.map(|_| unreachable!()).unwrap(),
            };
            count(&seen);
            match seen {
                Seen::Answer => answers += 1,
                Seen::Restart { .. } => restarts += 1,
            }
        }
        if round < rounds && random.u64(..3) > 0 {
            daemon.kill();
            killed += 1;
        } else {
            daemon.stop();
        }
        whole(&dir.path().join("root"));
    }
    drop(daemons);
    let writers = running.join_all().await;
    while let Ok(seen) = sees.try_recv() {
        count(&seen);
    }
    let last = DaemonProcess::start_in(dir.path(), &keep);
    let listed = list(dir.path()).await;
    last.stop();
    let names = |id| (0..NAMES).map(move |key| format!("{id}/{key}"));
    let lost: Vec<_> = writers
        .iter()
        .flat_map(|writer| names(writer.id).map(move |name| (writer, name)))
        .filter_map(|(writer, name)| writer.check(&name, listed.get(&name).copied()).err())
        .collect();
    let store = ReadOnlyStore::open(&dir.path().join("root")).unwrap();
    let logged = store.read(|snapshot| Ok(changelog::logged(snapshot))).unwrap();
    let changes: usize = logged.values().map(Vec::len).sum();
    for (writer, name) in writers.iter().flat_map(|w| names(w.id).map(move |name| (w, name))) {
        let asked = writer.asked.iter().filter(|(n, _, _)| *n == name);
        let log = logged.get(&name).map_or(&[][..], Vec::as_slice);
        assert!(changelog::explains(asked.map(|(_, c, is)| (*c, *is)), log), "{name}: {log:?}");
    }
    println!("{changes} changes in the log");
    println!(
        "ended {} times under load, {killed} by SIGKILL: {answered} writes answered, \
         {in_doubt} in doubt, {looked_at} records looked at, {} at the end, {} lost",
        rounds + 1,
        listed.len(),
        lost.len(),
    );
    assert!(lost.is_empty(), "{lost:#?}");
    let known: BTreeSet<_> = writers.iter().flat_map(|writer| names(writer.id)).collect();
    assert!(listed.keys().all(|name| known.contains(name)), "{listed:?}");
}
