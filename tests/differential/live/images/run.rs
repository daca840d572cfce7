//! Plays sequences to the servers, compares, and shortens what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::answer::Answer;
use super::known;
use super::step::Step;
use super::{generate, step};
use crate::support::containerd::Containerd;
use crate::support::random::Rng;
use crate::support::{BOTH, Client, Served};

/// The number of sequences after which all servers start anew: containerd's collector of garbage reads all
/// that was left.
const SEQUENCES: usize = 400;
/// The most trials to shorten one sequence.
const TRIALS: usize = 1500;
/// The most kinds of differences that are shortened and shown.
const SHOWN: usize = 12;

/// A containerd and ours, by both protocols, each on a store of its own.
pub struct Servers {
    pub containerd: Containerd,
    pub theirs: Client,
    pub ours: Vec<(Served, Client)>,
    sequence: u64,
}

/// Where a sequence first made a difference.
#[derive(Debug, Clone)]
pub struct Difference {
    pub at: usize,
    pub protocol: String,
    pub theirs: Answer,
    pub ours: Answer,
}

#[derive(Default)]
pub struct Outcome {
    pub sequences: usize,
    pub operations: usize,
    pub differences: usize,
    /// How often each rule of `known` was met, with its reason.
    pub known: BTreeMap<String, usize>,
    /// Operations by method and by kind of answer.
    pub answers: BTreeMap<String, usize>,
    /// A difference of each kind, shortened.
    pub reports: Vec<String>,
}

impl Servers {
    pub async fn start(bin: &Path) -> Self {
        let containerd = Containerd::start(bin).await;
        let theirs = containerd.client().await;
        let mut ours = Vec::new();
        for protocol in BOTH {
            let served = Served::start().await;
            let client = served.client(protocol).await;
            ours.push((served, client));
        }
        Self { containerd, theirs, ours, sequence: 0 }
    }

    pub async fn stop(self) {
        for (served, client) in self.ours {
            drop(client);
            served.daemon.stop().await;
        }
    }

    /// Plays `steps` in fresh namespaces, up to the first difference.
    pub async fn play(&mut self, steps: &[Step], outcome: &mut Outcome) -> Option<Difference> {
        self.sequence += 1;
        let version = self.containerd.version;
        for (at, step) in steps.iter().enumerate() {
            let (step, unsent) = known::sendable(step, version);
            for unsent in unsent {
                *outcome.known.entry(unsent.to_string()).or_default() += 1;
            }
            assert!(!step.is_deadly(), "it would end containerd: {step:?}");
            let (theirs, by_grpc, by_ttrpc) = tokio::join!(
                step.ask(&self.theirs, self.sequence),
                step.ask(&self.ours[0].1, self.sequence),
                step.ask(&self.ours[1].1, self.sequence),
            );
            outcome.operations += 1;
            *outcome.answers.entry(format!("{} {}", step.method(), theirs.kind())).or_default() +=
                1;
            for (protocol, ours) in BOTH.iter().zip([by_grpc, by_ttrpc]) {
                if ours == theirs {
                    continue;
                }
                if let Some(known) = known::explains(version, &step, &theirs, &ours) {
                    *outcome.known.entry(known.to_string()).or_default() += 1;
                    continue;
                }
                let protocol = format!("{protocol:?}");
                return Some(Difference { at, protocol, theirs, ours });
            }
        }
        None
    }

    /// The shortest sequence found that still makes a difference of the same kind.
    async fn shorten(&mut self, steps: &[Step], first: Difference) -> (Vec<Step>, Difference) {
        let kind = first.kind();
        let (mut best, mut difference) = (steps[..=first.at].to_vec(), first);
        let mut trials = 0;
        'again: loop {
            for candidate in candidates(&best) {
                trials += 1;
                if trials > TRIALS {
                    break 'again;
                }
                let found = self.play(&candidate, &mut Outcome::default()).await;
                if let Some(found) = found.filter(|found| found.kind() == kind) {
                    best = candidate[..=found.at].to_vec();
                    difference = found;
                    continue 'again;
                }
            }
            break;
        }
        (best, difference)
    }
}

/// Without some steps, half of them first; then with a short name, or with a simpler step.
fn candidates(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    let mut size = steps.len() / 2;
    while size > 0 {
        for from in (0..steps.len()).step_by(size) {
            let mut fewer = steps.to_vec();
            fewer.drain(from..(from + size).min(steps.len()));
            if !fewer.is_empty() {
                found.push(fewer);
            }
        }
        size /= 2;
    }
    let names: BTreeSet<&str> = steps.iter().filter_map(Step::name).collect();
    for long in names.iter().filter(|name| name.len() > 1) {
        for short in ["i", "j", "k"].into_iter().filter(|short| !names.contains(short)).take(1) {
            let mut with = steps.to_vec();
            with.iter_mut().for_each(|step| step.rename(long, short));
            found.push(with);
        }
    }
    for (at, step) in steps.iter().enumerate() {
        for simpler in step.simpler() {
            let mut with = steps.to_vec();
            with[at] = simpler;
            found.push(with);
        }
        if step.space != step::Space::Own(0) {
            let mut with = steps.to_vec();
            with[at].space = step::Space::Own(0);
            found.push(with);
        }
    }
    found
}

impl Difference {
    fn kind(&self) -> (String, String) {
        (self.theirs.kind(), self.ours.kind())
    }
}

/// The first sequence's seed.
pub fn seed() -> u64 {
    number("LMDB_IMAGES_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    })
}

/// A number given in the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Plays random sequences for `time`, at least one.
pub async fn run(bin: &Path, mut seed: u64, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let mut outcome = Outcome::default();
    let mut kinds = BTreeSet::new();
    while outcome.sequences == 0 || Instant::now() < end {
        let mut servers = Servers::start(bin).await;
        for _ in 0..SEQUENCES {
            let steps = generate::sequence(seed);
            outcome.sequences += 1;
            if let Some(difference) = servers.play(&steps, &mut outcome).await {
                outcome.differences += 1;
                if kinds.len() < SHOWN && kinds.insert(difference.kind()) {
                    let (steps, difference) = servers.shorten(&steps, difference).await;
                    outcome.reports.push(report(seed, &servers.containerd, &steps, &difference));
                }
            }
            // The seed of a sequence leads to the seed of the next.
            seed = Rng::with_seed(seed).u64(..);
            if Instant::now() >= end {
                break;
            }
        }
        servers.stop().await;
    }
    outcome
}

fn report(seed: u64, containerd: &Containerd, steps: &[Step], difference: &Difference) -> String {
    let (major, minor, patch) = containerd.version;
    let mut report = format!(
        "LMDB_IMAGES_SEED={seed} begins with this sequence, here shortened to {} steps; \
         containerd {major}.{minor}.{patch}, {}:\n",
        steps.len(),
        difference.protocol
    );
    for step in steps {
        report += &format!("    {step:?}\n");
    }
    report
        + &format!("  containerd: {:?}\n  ours:       {:?}\n", difference.theirs, difference.ours)
}
