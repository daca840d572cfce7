//! `fleet collect`: hands the reports of the stream on to the database. It keeps no state, so several
//! collectors may run.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use async_nats::jetstream::{self, AckKind, Context, Message};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::fleet::backoff::Backoff;
use crate::fleet::nats::address::Nats;
use crate::fleet::nats::publish::{Correction, progress_in};
use crate::fleet::nats::{PARTITIONS, STREAM, answers_to, node_of, reports_in};
use crate::fleet::postgres::{ReportFailure, Reporter};
use crate::fleet::report::Answer;
use crate::fleet::ship::ReportingState;
use crate::fleet::target::Postgres;
use crate::log_throttle::throttled_log;
use crate::metrics::collect::Collected;
use crate::model::{Error, Result};

/// How long the stream keeps a report. The database may be unreachable for this long.
const MAX_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// How long the server remembers the ids of messages, so that it does not store a repeated message twice.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A report of a collector that was killed goes to another one after this time.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// How often a collector says that it is still at work on a report.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// How long a request for the next report waits at the server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A collector.
#[derive(Debug)]
pub(crate) struct Collector {
    from: Nats,
    to: Postgres,
    replicas: Option<usize>,
    collected: Collected,
    state: watch::Sender<ReportingState>,
}

impl Collector {
    /// Collects `from` a stream, which it makes with this number of `replicas` if it is not there, `to` a database.
    pub(crate) fn new(
        from: Nats,
        to: Postgres,
        replicas: Option<usize>,
        collected: Collected,
        state: watch::Sender<ReportingState>,
    ) -> Self {
        Self { from, to, replicas, collected, state }
    }

    /// Collects until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let source = loop {
            match self.from.connect().await {
                Ok(client) => break jetstream::new(client),
                Err(error) => log_and_wait(&mut backoff, &self.state, &error).await,
            }
        };
        let source = Source { from: self.from, context: source, replicas: self.replicas };
        let mut partitions = JoinSet::new();
        for number in 0..PARTITIONS {
            partitions.spawn(
                Partition {
                    number,
                    source: source.clone(),
                    consumer: None,
                    reporter: Reporter::new(self.to.clone()),
                    collected: self.collected.clone(),
                    state: self.state.clone(),
                }
                .run()
                .boxed(),
            );
        }
        while partitions.join_next().await.is_some() {}
    }
}

/// Logs the error, and waits before another attempt.
async fn log_and_wait(backoff: &mut Backoff, state: &watch::Sender<ReportingState>, error: &Error) {
    let pause = backoff.pause();
    throttled_log!(Warn, "{error}; again in {:.1} s", pause.as_secs_f64());
    state.send_replace(ReportingState { is_reporting: false, text: error.to_string() });
    tokio::time::sleep(pause).await;
}

/// The stream that the reports come from.
#[derive(Clone)]
struct Source {
    from: Nats,
    context: Context,
    replicas: Option<usize>,
}

impl Source {
    /// The consumer of a partition. The stream and the consumer are made if they are not there.
    async fn consumer(&self, partition: u32) -> Result<Consumer<ConsumerConfig>> {
        let stream = self.stream().await?;
        let name = format!("collect-{partition}");
        let config = ConsumerConfig {
            durable_name: Some(name.clone()),
            filter_subject: reports_in(partition),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // One report at a time keeps the reports of a node in order, also when one is delivered again.
            max_ack_pending: 1,
            ..ConsumerConfig::default()
        };
        let made = stream.get_or_create_consumer(&name, config).await;
        made.map_err(|e| self.from.failed("making a consumer at", &e))
    }

    async fn stream(&self) -> Result<Stream> {
        let wanted = Config {
            name: STREAM.into(),
            description: Some("reports of lmdb-images ship".into()),
            subjects: vec![reports_in("*")],
            storage: StorageType::File,
            num_replicas: self.replicas.unwrap_or(1),
            max_age: MAX_AGE,
            // A full stream refuses reports: the nodes keep them.
            discard: DiscardPolicy::New,
            duplicate_window: DUPLICATE_WINDOW,
            // A node may read its own newest report and no other.
            allow_direct: true,
            ..Config::default()
        };
        let made = self.context.get_or_create_stream(wanted).await;
        let stream = made.map_err(|e| self.from.failed("making the stream at", &e))?;
        let config = &stream.cached_info().config;
        match self.replicas {
            Some(replicas) if replicas != config.num_replicas => {
                let config = Config { num_replicas: replicas, ..config.clone() };
                let changed = self.context.update_stream(config).await;
                changed.map_err(|e| self.from.failed("changing the replicas at", &e))?;
            }
            _ => {}
        }
        Ok(stream)
    }
}

/// The reports of some nodes, one after the other.
struct Partition {
    number: u32,
    source: Source,
    /// `None` at the start, and after a failure or an interval without a report, as the stream may have been deleted.
    /// Then it is made again.
    consumer: Option<Consumer<ConsumerConfig>>,
    reporter: Reporter,
    collected: Collected,
    state: watch::Sender<ReportingState>,
}

impl Partition {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            match self.next().await {
                Ok(true) => backoff.reset(),
                // No report came in this interval. The consumer is looked up again: after the stream was deleted, a
                // request for the next report may end without an error, as if there was none.
                Ok(false) => {
                    self.consumer = None;
                    self.reporter.close();
                    self.set_state(true, "waiting for reports".into());
                }
                Err(error) => {
                    self.consumer = None;
                    log_and_wait(&mut backoff, &self.state, &error).await;
                }
            }
        }
    }

    /// Hands the next report on. Returns whether there was one.
    async fn next(&mut self) -> Result<bool> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.source.consumer(self.number).await?,
        };
        let consumer = self.consumer.insert(consumer);
        let failed =
            |e: &(dyn std::error::Error + 'static)| self.source.from.failed("reading from", e);
        let fetched = consumer.batch().max_messages(1).expires(FETCH_TIMEOUT).messages();
        match fetched.await.map_err(|e| failed(&e))?.next().await {
            None => Ok(false),
            Some(Ok(message)) => self.handle(message).await.map(|()| true),
            Some(Err(e)) => Err(failed(e.as_ref())),
        }
    }

    async fn handle(&mut self, message: Message) -> Result<()> {
        let number =
            message.info().map_err(|e| self.source.from.failed("reading from", e.as_ref()));
        let number = number?.stream_sequence;
        let client = message.context.client();
        let (message, acker) = message.split();
        let (node, report) = match (node_of(&message.subject), str::from_utf8(&message.payload)) {
            (Some(node), Ok(report)) => (node, report),
            _ => {
                let why = "its subject names no node, or it is no text";
                return self.leave_out(&acker, number, why).await;
            }
        };
        let started = Instant::now();
        let forwarded = self.forward(node, report, &acker).await;
        self.collected.seconds.observe(started.elapsed().as_secs_f64());
        let answer = match forwarded {
            Ok(answer) => answer,
            Err(ReportFailure::Refused(error)) => {
                return self.leave_out(&acker, number, &format!("of node {node}: {error}")).await;
            }
            Err(ReportFailure::Other(error)) => {
                self.collected.failures.inc();
                // Another collector may reach the database. If this message is lost, the server delivers the report
                // again later.
                let _ = acker.ack_with(AckKind::Nak(Some(Duration::from_secs(1)))).await;
                return Err(error);
            }
        };
        self.collected.answered.set(clock::now().seconds);
        let progress = message.headers.as_ref().and_then(progress_in);
        if progress.is_none_or(|progress| !progress.agrees_with(&answer)) {
            let correction = serde_json::to_vec(&Correction { report: number, answer });
            let correction =
                correction.map_err(|e| Error::Internal(format!("writing an answer: {e}")))?;
            self.collected.sent_back.inc();
            // If this correction is lost, the next heartbeat causes the same correction.
            let _ = client.publish(answers_to(node), Bytes::from(correction)).await;
        }
        self.set_state(true, format!("collected report {number}"));
        acker
            .double_ack()
            .await
            .map_err(|e| self.source.from.failed("acknowledging at", e.as_ref()))
    }

    /// Forwards a report, and returns the answer of the database. Tells the NATS server meanwhile that the report is
    /// being worked on.
    async fn forward(
        &mut self,
        node: &str,
        report: &str,
        acker: &Acker,
    ) -> Result<Answer, ReportFailure> {
        let mut answer = std::pin::pin!(self.reporter.forward(node, report));
        loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) => drop(acker.ack_with(AckKind::Progress).await),
            }
        }
    }

    /// Leaves out a report that the database will never take, so that the reports behind it go on. The node's next
    /// report then follows a gap, which the answer tells the node.
    async fn leave_out(&self, acker: &Acker, number: u64, why: &str) -> Result<()> {
        self.collected.refused.inc();
        throttled_log!(Error, "report {number} is left out: {why}");
        let ended = acker.double_ack_with(AckKind::Term).await;
        ended.map_err(|e| self.source.from.failed("acknowledging at", e.as_ref()))
    }

    fn set_state(&self, is_reporting: bool, text: String) {
        self.state.send_replace(ReportingState { is_reporting, text });
    }
}
