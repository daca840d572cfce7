//! A containerd, and ours by both protocols.

use std::collections::BTreeSet;
use std::path::Path;

use super::answer::Answer;
use super::step::{Space, Step};
use super::{generate, known};
use crate::live::engine::known::Known;
use crate::live::engine::{self, Sent, Sequence};
use crate::support::containerd::{Containerd, Version};
use crate::support::{BOTH, Client, Served};

/// Each on a store of its own.
pub struct Servers {
    pub containerd: Containerd,
    pub theirs: Client,
    pub ours: Vec<(Served, Client)>,
    sequence: u64,
}

impl engine::Answer for Answer {
    fn kind(&self) -> String {
        Self::kind(self)
    }
}

impl engine::Servers for Servers {
    const NAME: &'static str = "Images";
    /// containerd's collector of garbage reads all that was left.
    const SEQUENCES: usize = 400;
    const TRIALS: usize = 1500;
    const KNOWN: &'static [Known<Step, Answer>] = known::KNOWN;

    type Step = Step;
    type Answer = Answer;
    type Setup = ();
    type Running = ();

    async fn start(bin: &Path) -> Self {
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

    async fn stop(self) {
        for (served, client) in self.ours {
            drop(client);
            served.daemon.stop().await;
        }
    }

    fn version(&self) -> Version {
        self.containerd.version
    }

    fn sequence(seed: u64) -> Sequence<Step, ()> {
        Sequence { steps: generate::sequence(seed), setup: () }
    }

    fn method(step: &Step) -> String {
        step.method().into()
    }

    fn is_deadly(step: &Step) -> bool {
        step.is_deadly()
    }

    fn sendable(step: &Step, version: Version) -> Sent<Step> {
        known::sendable(step, version)
    }

    async fn begin(&mut self, (): &()) {
        self.sequence += 1;
    }

    async fn ask(&self, step: &Step) -> (Answer, Vec<(String, Answer)>) {
        let (theirs, by_grpc, by_ttrpc) = tokio::join!(
            step.ask(&self.theirs, self.sequence),
            step.ask(&self.ours[0].1, self.sequence),
            step.ask(&self.ours[1].1, self.sequence),
        );
        let ways = BOTH.iter().map(|protocol| format!("{protocol:?}"));
        (theirs, ways.zip([by_grpc, by_ttrpc]).collect())
    }

    /// With a short name, with a simpler step, or in the first namespace.
    fn simpler(steps: &[Step]) -> Vec<Vec<Step>> {
        let mut found = Vec::new();
        let names: BTreeSet<&str> = steps.iter().filter_map(Step::name).collect();
        for long in names.iter().filter(|name| name.len() > 1) {
            if let Some(short) = ["i", "j", "k"].into_iter().find(|short| !names.contains(short)) {
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
            if step.space != Space::Own(0) {
                let mut with = steps.to_vec();
                with[at].space = Space::Own(0);
                found.push(with);
            }
        }
        found
    }
}
