//! Asking the containerd behind, for as long as it may take.

use std::io::{self, ErrorKind};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use protobuf::Message;
use tonic::Status;

use crate::model::{Error, Namespace};
use crate::proxy::images::ProxyImages;
use crate::service::{CallContext, Reply};

/// How long containerd may take to answer, before a read turns to LMDB and a write gives up.
pub(crate) const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// The largest reply that containerd sends, in bytes, if it is not told otherwise.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// What became of a call to containerd.
pub(crate) enum UpstreamOutcome<R> {
    /// It answered.
    Answer(R),
    /// It answered that it will not.
    Refused(Error),
    /// Nobody was there to be asked: nothing was done.
    Unreached(String),
    /// Nobody answered: whether it was done is not known.
    Unknown(String),
}

impl ProxyImages {
    /// One call with one reply.
    pub(crate) async fn ask<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        headers: &HeaderMap,
        request: Q,
        time: Duration,
    ) -> UpstreamOutcome<R> {
        let call = self.shared.containerd.call(path, Some(namespace), headers, request);
        self.within(time, call).await
    }

    /// What becomes of a call to containerd within that time.
    async fn within<R>(
        &self,
        time: Duration,
        call: impl Future<Output = std::result::Result<R, Status>>,
    ) -> UpstreamOutcome<R> {
        let name = self.shared.containerd.socket().display();
        match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => UpstreamOutcome::Answer(answer),
            Ok(Err(status)) if is_containerds(&status) => UpstreamOutcome::Refused(
                Error::Upstream(status.code() as i32, status.message().to_owned()),
            ),
            Ok(Err(status)) => {
                let inner = innermost(&status);
                let why = format!("containerd at {name} cannot be reached: {inner}");
                let nobody = |e: &io::Error| {
                    matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
                };
                if inner.downcast_ref().is_some_and(nobody) {
                    UpstreamOutcome::Unreached(why)
                } else {
                    UpstreamOutcome::Unknown(why)
                }
            }
            Err(_) => {
                *self.last_timeout() = Some(Instant::now());
                UpstreamOutcome::Unknown(format!(
                    "containerd at {name} did not answer within {time:?}"
                ))
            }
        }
    }

    /// Asks containerd for a reply that is given on as it comes, with the share of the budget that it takes:
    /// it may be as large as any, so it is not read before there is room for it. One of at most `small`
    /// bytes needs no share.
    pub(crate) async fn ask_for_reply<Q: Message>(
        &self,
        call: &CallContext,
        path: &'static str,
        namespace: &Namespace,
        request: Q,
        small: usize,
    ) -> UpstreamOutcome<Reply> {
        let containerd = &self.shared.containerd;
        if small > 0 {
            let asked = request.clone();
            let reply = containerd.call_for_bytes(path, namespace, &call.headers, asked, small);
            match self.within(ANSWER.0, reply).await {
                UpstreamOutcome::Answer(Some(message)) => {
                    return UpstreamOutcome::Answer(Reply { message, hold: None });
                }
                UpstreamOutcome::Answer(None) => {}
                UpstreamOutcome::Refused(e) => return UpstreamOutcome::Refused(e),
                UpstreamOutcome::Unreached(why) => return UpstreamOutcome::Unreached(why),
                UpstreamOutcome::Unknown(why) => return UpstreamOutcome::Unknown(why),
            }
        }
        let mut hold = self.shared.local.share(MAX_REPLY_BYTES).await;
        let reply =
            containerd.call_for_bytes(path, namespace, &call.headers, request, MAX_REPLY_BYTES);
        match self.within(ANSWER.0, reply).await {
            UpstreamOutcome::Answer(Some(message)) if message.len() <= call.reply_limit => {
                if let Some(hold) = &mut hold {
                    hold.shrink(message.len());
                }
                UpstreamOutcome::Answer(Reply { message, hold })
            }
            UpstreamOutcome::Answer(found) => {
                let size = found.map_or(MAX_REPLY_BYTES + 1, |message| message.len());
                UpstreamOutcome::Refused(Error::message_too_large(size, call.reply_limit))
            }
            UpstreamOutcome::Refused(e) => UpstreamOutcome::Refused(e),
            UpstreamOutcome::Unreached(why) => UpstreamOutcome::Unreached(why),
            UpstreamOutcome::Unknown(why) => UpstreamOutcome::Unknown(why),
        }
    }

    /// Whether containerd is worth asking for a read: not while it has just let one wait.
    pub(crate) fn upstream_responsive(&self) -> bool {
        self.last_timeout().is_none_or(|since| since.elapsed() > ANSWER.0)
    }

    fn last_timeout(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a status came from containerd, and not from the way to it.
fn is_containerds(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// What lies at the bottom of an error; the layers above say only "transport error".
fn innermost(error: &Status) -> &(dyn std::error::Error + 'static) {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}
