//! `ship --to nats://…`: publishes the reports of a node.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

use crate::fleet::nats::address::Nats;
use crate::fleet::nats::progress::ReportProgress;
use crate::fleet::nats::{PROGRESS_HEADER, STREAM, answers_to, reports_of};
use crate::fleet::report::{Answer, Body, NodeReport};
use crate::model::{Error, Result};

/// How long a server may take to say that a message is stored.
const STORED_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a node waits for the database's confirmation before it sends a snapshot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer of the database to a report, if it differs from the answer that the node predicted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Correction {
    /// The sequence number of the report.
    pub(crate) report: u64,
    /// The answer to it.
    pub(crate) answer: Answer,
}

/// Publishes reports. It connects for the first one, and again after a failure.
pub(crate) struct Publisher {
    to: Nats,
    session: Option<Session>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("to", &self.to).finish_non_exhaustive()
    }
}

/// A connection, and the progress of the node by the stream.
struct Session {
    context: Context,
    answers: Subscriber,
    progress: ReportProgress,
    /// The sequence number of the node's newest message; 0 if there is none.
    newest: u64,
    /// Corrections of this message and earlier ones were applied already.
    corrected_up_to: u64,
}

impl Publisher {
    /// Publishes as the node with the name of the user of `to`.
    pub(crate) fn new(to: Nats) -> Self {
        Self { to, session: None }
    }

    /// Closes the connection. The next report then reads the progress of the node from the stream.
    pub(crate) fn close(&mut self) {
        self.session = None;
    }

    /// Publishes a report, and returns the predicted answer of the database. After an error the report may be in
    /// the stream or not.
    pub(crate) async fn send(&mut self, report: &NodeReport) -> Result<Answer> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::new(&self.to).await?,
        };
        if session.apply_corrections() && !matches!(report.body, Body::Hello(_)) {
            let answer = Answer { ok: false, ..session.progress.apply(report).0 };
            self.session = Some(session);
            return Ok(answer);
        }
        let (mut answer, progress) = session.progress.apply(report);
        if answer.ok {
            session.publish(&self.to, report, &progress).await?;
        }
        session.progress = progress;
        if matches!(report.body, Body::Hello(_)) && session.progress.needs_confirmation() {
            // If no correction comes, because the link leads one way only, the node sends the snapshot.
            if tokio::time::timeout(ANSWER_TIMEOUT, session.next_correction()).await.is_ok() {
                answer = session.progress.apply(report).0;
            }
        }
        self.session = Some(session);
        Ok(answer)
    }

    /// Waits until the database corrects a predicted answer.
    pub(crate) async fn correction(&mut self) {
        match &mut self.session {
            Some(session) => session.next_correction().await,
            None => std::future::pending().await,
        }
    }
}

impl Session {
    async fn new(to: &Nats) -> Result<Self> {
        let client = to.connect().await?;
        // Subscribe before the first report, so that no answer to it is missed.
        let answers = client.subscribe(answers_to(&to.user)).await;
        let answers = answers.map_err(|e| to.failed("subscribing at", &e))?;
        let mut context = jetstream::new(client);
        context.set_timeout(STORED_TIMEOUT);
        let stream = context.get_stream_no_info(STREAM).await;
        let stream = stream.map_err(|e| to.failed("reading from", &e))?;
        let (newest, progress) = newest_of(to, &stream).await?;
        Ok(Self { context, answers, progress, newest, corrected_up_to: 0 })
    }

    /// Waits for a correction, and applies it.
    async fn next_correction(&mut self) {
        loop {
            match self.answers.next().await {
                Some(message) if self.apply_correction(&message.payload) => return,
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Applies the corrections that have arrived. Returns whether there was one.
    fn apply_corrections(&mut self) -> bool {
        let mut has_applied = false;
        while let Some(Some(message)) = self.answers.next().now_or_never() {
            has_applied |= self.apply_correction(&message.payload);
        }
        has_applied
    }

    fn apply_correction(&mut self, payload: &[u8]) -> bool {
        let Ok(correction) = serde_json::from_slice::<Correction>(payload) else { return false };
        if correction.report <= self.corrected_up_to {
            return false;
        }
        // The corrections of reports that were published meanwhile have the same content.
        self.corrected_up_to = self.newest;
        self.progress = ReportProgress::from_answer(&correction.answer);
        true
    }

    async fn publish(
        &mut self,
        to: &Nats,
        report: &NodeReport,
        progress: &ReportProgress,
    ) -> Result<()> {
        let json = serde_json::to_vec(report)
            .map_err(|e| Error::Internal(format!("writing a report: {e}")))?;
        let header = progress.header();
        let message = PublishMessage::build()
            .header(PROGRESS_HEADER, header.as_str())
            // A repeated report has the same id, so the server stores it once.
            .message_id(format!("{}/{}/{:08x}", to.user, self.newest, crc32fast::hash(&json)))
            .expected_last_subject_sequence(self.newest)
            .payload(Bytes::from(json));
        let failed = |e: async_nats::jetstream::context::PublishError| match e.kind() {
            // The server does not answer either when it has switched JetStream off, and while the stream's
            // replicas have no leader.
            PublishErrorKind::StreamNotFound => Error::FailedPrecondition(format!(
                "{to} has no stream {STREAM}, which `lmdb-images fleet collect` makes, no leader of it just now, or \
                 no JetStream: is its disk full?"
            )),
            PublishErrorKind::TimedOut => Error::Unavailable(format!(
                "{to} did not say within {STORED_TIMEOUT:?} that a report is stored: it is overloaded, or its disk is \
                 full"
            )),
            PublishErrorKind::WrongLastSequence => Error::Unavailable(format!(
                "{to} has a newer report of {}: another process reports as this node, or an acknowledgement was \
                 lost",
                to.user
            )),
            PublishErrorKind::MaxPayloadExceeded => Error::ResourceExhausted(format!(
                "a report is larger than the max_payload of {to}: an image has a long name; raise max_payload"
            )),
            _ => to.failed("publishing to", &e),
        };
        let sent = self.context.send_publish(reports_of(&to.user), message).await;
        self.newest = sent.map_err(failed)?.await.map_err(failed)?.sequence;
        Ok(())
    }
}

/// The newest message of a node in the stream, and what it says.
async fn newest_of(to: &Nats, stream: &Stream<()>) -> Result<(u64, ReportProgress)> {
    match stream.direct_get_last_for_subject(reports_of(&to.user)).await {
        Ok(message) => {
            let progress = progress_in(&message.headers);
            Ok((message.sequence, progress.unwrap_or_else(ReportProgress::initial)))
        }
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
            Ok((0, ReportProgress::initial()))
        }
        // The server does not answer for a stream that it does not have, or whose replicas have no leader.
        Err(error) if error.kind() == DirectGetErrorKind::TimedOut => {
            Err(Error::Unavailable(format!(
                "{to} does not tell the newest report of {}: it is overloaded, its disk is full, or it has no stream \
                 {STREAM}, which `lmdb-images fleet collect` makes",
                to.user
            )))
        }
        Err(error) => Err(to.failed("reading the newest report at", &error)),
    }
}

/// The progress in the header of a report.
pub(crate) fn progress_in(headers: &HeaderMap) -> Option<ReportProgress> {
    ReportProgress::parse(headers.get(PROGRESS_HEADER)?.as_str())
}
