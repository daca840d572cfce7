//! Plays random sequences of requests to a real containerd and to us, compares all answers, and shortens what
//! differs. [`Servers`] describes what is compared; `known` has the rules for answers that differ on purpose.
//!
//! `LMDB_IMAGES_CONTAINERD_BIN=DIR` names the folder of the `containerd` to compare with.
//! `LMDB_IMAGES_DIFFERENTIAL_SECONDS` is for how long (5), `LMDB_IMAGES_SEED` with which sequence to begin.
//! `scripts/soak/differential` runs it against several versions.

mod shorten;

pub mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use self::known::Known;
use crate::support::containerd::{Containerd, Version};
use crate::support::random::Rng;
use crate::support::settings::{seed, setting};

/// The most kinds of differences that are shortened and shown.
const SHOWN: usize = 16;

/// An answer of a server, in the form in which answers are compared.
pub trait Answer: Debug + PartialEq {
    /// Tells differences apart: the code, and the words of the sentence that no request can choose.
    fn kind(&self) -> String;
}

/// The steps of a sequence, and what is set up before the first.
#[derive(Clone)]
pub struct Sequence<S, T> {
    pub steps: Vec<S>,
    pub setup: T,
}

/// What a step is sent as.
pub struct Sent<S> {
    /// `None` if it is not sent at all.
    pub step: Option<S>,
    /// The reasons why it is not sent as it is.
    pub reasons: Vec<String>,
}

/// A containerd, and our daemon in one or more ways, on stores of their own.
pub trait Servers: Sized {
    /// What the summary calls the services that are compared.
    const NAME: &'static str;
    /// The number of sequences after which all servers start anew: what a sequence leaves makes them slow.
    const SEQUENCES: usize;
    /// The most trials to shorten one sequence.
    const TRIALS: usize;
    /// Where answers differ on purpose.
    const KNOWN: &'static [Known<Self::Step, Self::Answer>];

    type Step: Clone + Debug + 'static;
    type Answer: Answer + 'static;
    type Setup: Clone;
    /// What a sequence that is under way holds.
    type Running;

    async fn start(bin: &Path) -> Self;
    async fn stop(self);
    fn version(&self) -> Version;

    fn sequence(seed: u64) -> Sequence<Self::Step, Self::Setup>;
    fn method(step: &Self::Step) -> String;
    /// Whether the request would end a containerd. No such request may be made.
    fn is_deadly(step: &Self::Step) -> bool;
    /// The step as it may be sent to a containerd of `version`, and to us.
    fn sendable(step: &Self::Step, version: Version) -> Sent<Self::Step>;

    /// Begins another sequence, in fresh namespaces.
    async fn begin(&mut self, setup: &Self::Setup) -> Self::Running;
    /// containerd's answer, and ours by the name of the way.
    async fn ask(&self, step: &Self::Step) -> (Self::Answer, Vec<(String, Self::Answer)>);
    /// Ends a sequence: the number of events that were compared, and how they differ if they do.
    async fn end(&self, _: Self::Running, _: &Self::Setup) -> (usize, Option<String>) {
        (0, None)
    }

    /// Steps that ask for a little less than these.
    fn simpler(_: &[Self::Step]) -> Vec<Vec<Self::Step>> {
        Vec::new()
    }
}

/// Where a sequence first made a difference.
#[derive(Debug)]
pub struct Difference {
    kind: String,
    text: String,
    /// The number of the step.
    at: usize,
}

/// What came of all sequences.
#[derive(Default)]
pub struct Outcome {
    sequences: usize,
    operations: usize,
    events: usize,
    differences: usize,
    /// How often each rule was met, with its reason.
    known: BTreeMap<String, usize>,
    /// Operations by method and by kind of answer.
    answers: BTreeMap<String, usize>,
    /// A difference of each kind, shortened.
    reports: Vec<String>,
}

/// Plays a sequence up to the first difference.
pub async fn play<S: Servers>(
    servers: &mut S,
    sequence: &Sequence<S::Step, S::Setup>,
    outcome: &mut Outcome,
) -> Option<Difference> {
    let version = servers.version();
    let running = servers.begin(&sequence.setup).await;
    for (at, step) in sequence.steps.iter().enumerate() {
        let sent = S::sendable(step, version);
        for reason in sent.reasons {
            *outcome.known.entry(reason).or_default() += 1;
        }
        let Some(step) = sent.step else { continue };
        assert!(!S::is_deadly(&step), "it would end containerd: {step:?}");
        let (theirs, ours) = servers.ask(&step).await;
        outcome.operations += 1;
        let answer = format!("{} {}", S::method(&step), theirs.kind());
        *outcome.answers.entry(answer).or_default() += 1;
        for (way, ours) in ours {
            if ours == theirs {
                continue;
            }
            if let Some(known) = known::explains(S::KNOWN, version, &step, &theirs, &ours) {
                *outcome.known.entry(known.to_string()).or_default() += 1;
                continue;
            }
            let kind = format!("{} {} / {}", S::method(&step), theirs.kind(), ours.kind());
            let text = format!("  containerd: {theirs:?}\n  ours, {way}: {ours:?}\n");
            return Some(Difference { kind, text, at });
        }
    }
    let (events, differ) = servers.end(running, &sequence.setup).await;
    outcome.events += events;
    let at = sequence.steps.len().saturating_sub(1);
    differ.map(|text| Difference { kind: "events".into(), text, at })
}

/// Plays random sequences for `time`, at least one.
async fn run<S: Servers>(bin: &Path, mut seed: u64, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let mut outcome = Outcome::default();
    let mut kinds = BTreeSet::new();
    while outcome.sequences == 0 || Instant::now() < end {
        let mut servers = S::start(bin).await;
        for _ in 0..S::SEQUENCES {
            let sequence = S::sequence(seed);
            outcome.sequences += 1;
            if let Some(difference) = play(&mut servers, &sequence, &mut outcome).await {
                outcome.differences += 1;
                if kinds.len() < SHOWN && kinds.insert(difference.kind.clone()) {
                    let shorter = shorten::shorten(&mut servers, sequence, difference).await;
                    outcome.reports.push(report::<S>(seed, servers.version(), &shorter));
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

fn report<S: Servers>(
    seed: u64,
    version: Version,
    (sequence, difference): &(Sequence<S::Step, S::Setup>, Difference),
) -> String {
    let mut report = format!(
        "LMDB_IMAGES_SEED={seed} begins with this sequence, here shortened to {} steps; \
         containerd {version:?}:\n",
        sequence.steps.len()
    );
    for step in &sequence.steps {
        report += &format!("    {step:?}\n");
    }
    report + &difference.text
}

/// Compares for as long as the environment says, and fails if any answer differs.
pub async fn compare<S: Servers>() {
    let (bin, seed) = (Containerd::bin(), seed());
    let seconds = setting("LMDB_IMAGES_DIFFERENTIAL_SECONDS").unwrap_or(5);
    let outcome = run::<S>(&bin, seed, Duration::from_secs(seconds)).await;
    for (answer, count) in &outcome.answers {
        println!("{count:8} {answer}");
    }
    for (known, count) in &outcome.known {
        println!("{count:8} known: {known}");
    }
    println!(
        "{}: {} sequences, {} operations compared, {} events, {} differences",
        S::NAME,
        outcome.sequences,
        outcome.operations,
        outcome.events,
        outcome.differences
    );
    assert!(
        outcome.differences == 0,
        "{} sequences differ; one of each kind:\n{}",
        outcome.differences,
        outcome.reports.join("\n")
    );
}
