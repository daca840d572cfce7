//! A containerd, and a daemon of ours that stands alone.

use std::path::Path;

use tonic::transport::Channel;

use super::answer::Answer;
use super::request::{Request, Step, numbered, unnumbered};
use super::watch::Watch;
use super::{generate, known};
use crate::live::engine::known::Known;
use crate::live::engine::{self, Sent, Sequence};
use crate::support::containerd::{Containerd, Version};
use crate::support::{Served, channel, grpc};

/// Each on a store of its own.
pub struct Servers {
    containerd: Containerd,
    served: Served,
    theirs: Channel,
    ours: Channel,
    sequence: u64,
}

impl engine::Answer for Answer {
    fn kind(&self) -> String {
        Self::kind(self)
    }
}

impl Servers {
    /// A text with the number of the sequence for the token.
    fn numbered(&self, text: &str) -> String {
        String::from_utf8(numbered(text.as_bytes(), self.sequence)).unwrap()
    }

    async fn ask_one(&self, channel: &Channel, step: &Step) -> Answer {
        let (service, method, message) = step.request.parts();
        let reply = if let Request::Subscribe(request) = &step.request {
            Watch::open(channel, &request.filters).await.map(|_| Vec::new())
        } else {
            let space = step.space.as_ref().map(|space| self.numbered(space));
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
}

impl engine::Servers for Servers {
    const NAME: &'static str = "beside Images";
    /// The servers keep every namespace.
    const SEQUENCES: usize = 300;
    const TRIALS: usize = 400;
    const KNOWN: &'static [Known<Step, Answer>] = known::KNOWN;

    type Step = Step;
    type Answer = Answer;
    /// The filters of each subscriber.
    type Setup = Vec<Vec<String>>;
    /// The subscriptions there and here.
    type Running = Vec<(Watch, Watch)>;

    async fn start(bin: &Path) -> Self {
        let containerd = Containerd::start(bin).await;
        let served = Served::start().await;
        let theirs = channel(&containerd.socket()).await.unwrap();
        let ours = channel(served.daemon.grpc()).await.unwrap();
        Self { containerd, served, theirs, ours, sequence: 0 }
    }

    async fn stop(self) {
        drop((self.containerd, self.ours));
        self.served.daemon.stop().await;
    }

    fn version(&self) -> Version {
        self.containerd.version
    }

    fn sequence(seed: u64) -> Sequence<Step, Self::Setup> {
        generate::sequence(seed)
    }

    fn method(step: &Step) -> String {
        step.request.method()
    }

    fn is_deadly(step: &Step) -> bool {
        step.request.is_deadly()
    }

    fn sendable(step: &Step, version: Version) -> Sent<Step> {
        known::sendable(step, version)
    }

    async fn begin(&mut self, subscribers: &Self::Setup) -> Self::Running {
        self.sequence += 1;
        let mut watches = Vec::new();
        for filters in subscribers {
            let filters: Vec<String> = filters.iter().map(|f| self.numbered(f)).collect();
            let there = Watch::open(&self.theirs, &filters).await.unwrap();
            let here = Watch::open(&self.ours, &filters).await.unwrap();
            watches.push((there, here));
        }
        watches
    }

    async fn ask(&self, step: &Step) -> (Answer, Vec<(String, Answer)>) {
        let (theirs, ours) =
            tokio::join!(self.ask_one(&self.theirs, step), self.ask_one(&self.ours, step));
        (theirs, vec![("Grpc".into(), ours)])
    }

    async fn end(
        &self,
        watches: Self::Running,
        subscribers: &Self::Setup,
    ) -> (usize, Option<String>) {
        let mut count = 0;
        for ((there, here), filters) in watches.into_iter().zip(subscribers) {
            let theirs = there.close(self.sequence).await;
            let ours = here.close(self.sequence).await;
            count += theirs.len();
            if theirs != ours {
                let split = theirs.iter().zip(&ours).take_while(|(t, o)| t == o).count();
                let difference = format!(
                    "  watched with {filters:?}, events from the {split}th on\n  containerd: {:?}\n  \
                     ours:       {:?}\n",
                    &theirs[split..],
                    &ours[split..]
                );
                return (count, Some(difference));
            }
        }
        (count, None)
    }
}
