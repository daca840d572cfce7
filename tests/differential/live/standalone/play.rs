//! Plays sequences to a containerd and to us, compares answers and events, and shortens what
//! differs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tonic::transport::Channel;

use super::answer::Answer;
use super::request::{Request, Step, numbered, unnumbered};
use super::watch::Watch;
use super::{generate, known};
use crate::support::containerd::{Containerd, Version};
use crate::support::random::Rng;
use crate::support::{Served, channel, grpc};

/// The number of sequences after which the servers start anew: they keep every namespace.
const SEQUENCES: usize = 300;
/// The most trials to shorten one sequence, and the most kinds of differences shown.
const TRIALS: usize = 400;
const SHOWN: usize = 16;

/// The steps of a sequence, and the filters of its subscribers.
#[derive(Clone)]
pub struct Sequence {
    pub steps: Vec<Step>,
    pub watches: Vec<Vec<String>>,
}

#[derive(Default)]
pub struct Outcome {
    pub sequences: usize,
    pub operations: usize,
    pub events: usize,
    pub differences: usize,
    pub known: BTreeMap<String, usize>,
    pub answers: BTreeMap<String, usize>,
    pub reports: Vec<String>,
}

/// What differed: its kind, and in full.
struct Difference {
    kind: String,
    told: String,
    at: usize,
}

pub struct Servers {
    version: Version,
    containerd: Containerd,
    served: Served,
    theirs: Channel,
    ours: Channel,
    sequence: u64,
}

impl Servers {
    pub async fn start(bin: &Path) -> Self {
        let containerd = Containerd::start(bin).await;
        let served = Served::start().await;
        let theirs = channel(&containerd.socket()).await.unwrap();
        let ours = channel(served.daemon.grpc()).await.unwrap();
        Self { version: containerd.version, containerd, served, theirs, ours, sequence: 0 }
    }

    async fn stop(self) {
        drop((self.containerd, self.ours));
        self.served.daemon.stop().await;
    }

    async fn ask(&self, channel: &Channel, step: &Step) -> Answer {
        let (service, method, message) = step.request.parts();
        let reply = if let Request::Subscribe(request) = &step.request {
            Watch::open(channel, &request.filters).await.map(|_| Vec::new())
        } else {
            let space = step
                .space
                .as_ref()
                .map(|space| String::from_utf8(numbered(space.as_bytes(), self.sequence)).unwrap());
            let message = numbered(&message, self.sequence);
            grpc(channel, service, method, space.as_deref(), message).await
        };
        let reply = match reply {
            Ok(bytes) => Ok(unnumbered(&bytes, self.sequence)),
            Err(mut failed) => {
                let message = unnumbered(failed.message.as_bytes(), self.sequence);
                failed.message = String::from_utf8(message).unwrap();
                Err(failed)
            }
        };
        Answer::new(&step.request, reply)
    }

    /// Plays a sequence up to the first difference.
    async fn play(&mut self, sequence: &Sequence, outcome: &mut Outcome) -> Option<Difference> {
        self.sequence += 1;
        let mut watches = Vec::new();
        for filters in &sequence.watches {
            let filters: Vec<String> = filters
                .iter()
                .map(|f| String::from_utf8(numbered(f.as_bytes(), self.sequence)).unwrap())
                .collect();
            let there = Watch::open(&self.theirs, &filters).await.unwrap();
            let here = Watch::open(&self.ours, &filters).await.unwrap();
            watches.push((there, here));
        }
        for (at, step) in sequence.steps.iter().enumerate() {
            if let Some(reason) = known::unsent(&step.request, self.version) {
                *outcome.known.entry(reason.into()).or_default() += 1;
                continue;
            }
            let step = &known::sent(step, self.version);
            assert!(!step.request.is_deadly(), "it would end containerd: {step:?}");
            let (theirs, ours) =
                tokio::join!(self.ask(&self.theirs, step), self.ask(&self.ours, step));
            outcome.operations += 1;
            let answer = format!("{} {}", step.request.method(), theirs.kind());
            *outcome.answers.entry(answer).or_default() += 1;
            if ours == theirs {
                continue;
            }
            if let Some(known) = known::explains(self.version, step, &theirs, &ours) {
                *outcome.known.entry(known.to_string()).or_default() += 1;
                continue;
            }
            let kind = format!("{} {} / {}", step.request.method(), theirs.kind(), ours.kind());
            let told = format!("  containerd: {theirs:?}\n  ours:       {ours:?}\n");
            return Some(Difference { kind, told, at });
        }
        for ((there, here), filters) in watches.into_iter().zip(&sequence.watches) {
            let theirs = there.close(self.sequence).await;
            let ours = here.close(self.sequence).await;
            outcome.events += theirs.len();
            if theirs != ours {
                let split =
                    theirs.iter().zip(&ours).take_while(|(theirs, ours)| theirs == ours).count();
                let told = format!(
                    "  watched with {filters:?}, events from the {split}th on\n  containerd: {:?}\n  \
                     ours:       {:?}\n",
                    &theirs[split..],
                    &ours[split..]
                );
                let at = sequence.steps.len().saturating_sub(1);
                return Some(Difference { kind: "events".into(), told, at });
            }
        }
        None
    }

    /// The shortest sequence found that still makes a difference of the same kind.
    async fn shorten(
        &mut self,
        first: &Sequence,
        mut difference: Difference,
    ) -> (Sequence, Difference) {
        let mut best = first.clone();
        best.steps.truncate(difference.at + 1);
        let mut trials = 0;
        'again: loop {
            let mut size = (best.steps.len() / 2).max(1);
            loop {
                for from in (0..best.steps.len()).step_by(size) {
                    let mut fewer = best.clone();
                    fewer.steps.drain(from..(from + size).min(best.steps.len()));
                    trials += 1;
                    if fewer.steps.is_empty() || trials > TRIALS {
                        continue;
                    }
                    let found = self.play(&fewer, &mut Outcome::default()).await;
                    if let Some(found) = found.filter(|found| found.kind == difference.kind) {
                        fewer.steps.truncate(found.at + 1);
                        (best, difference) = (fewer, found);
                        continue 'again;
                    }
                }
                if size == 1 {
                    break 'again;
                }
                size /= 2;
            }
        }
        (best, difference)
    }
}

/// Plays random sequences for `time`, at least one.
pub async fn run(bin: &Path, mut seed: u64, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let mut outcome = Outcome::default();
    let mut kinds = BTreeSet::new();
    while outcome.sequences == 0 || Instant::now() < end {
        let mut servers = Servers::start(bin).await;
        for _ in 0..SEQUENCES {
            let sequence = generate::sequence(seed);
            outcome.sequences += 1;
            if let Some(difference) = servers.play(&sequence, &mut outcome).await {
                outcome.differences += 1;
                if kinds.len() < SHOWN && kinds.insert(difference.kind.clone()) {
                    let (sequence, difference) = servers.shorten(&sequence, difference).await;
                    outcome.reports.push(report(seed, servers.version, &sequence, &difference));
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

fn report(seed: u64, version: Version, sequence: &Sequence, difference: &Difference) -> String {
    let mut report = format!(
        "LMDB_IMAGES_SEED={seed} begins with this sequence, here shortened to {} steps; \
         containerd {version:?}:\n",
        sequence.steps.len()
    );
    for step in &sequence.steps {
        report += &format!("    {step:?}\n");
    }
    report + &difference.told
}
