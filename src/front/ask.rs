//! Asking the containerd behind, for as long as it may take.

use std::io::{self, ErrorKind};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use protobuf::Message;
use tonic::Status;

use super::images::Front;
use crate::model::{Error, Namespace};
use crate::service::{Call, Reply};

/// How long containerd may take to answer, before a read turns to LMDB and a write gives up.
pub(super) const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// The largest reply that containerd sends, in bytes, if it is not told otherwise.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// What became of a call to containerd.
pub(super) enum Asked<R> {
    /// It answered.
    Answer(R),
    /// It answered that it will not.
    Refused(Error),
    /// Nobody was there to be asked: nothing was done.
    Unreached(String),
    /// Nobody answered: whether it was done is not known.
    Unknown(String),
}

impl Front {
    /// One call with one reply.
    pub(super) async fn ask<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        headers: &HeaderMap,
        request: Q,
        time: Duration,
    ) -> Asked<R> {
        let call = self.shared.containerd.call(path, Some(namespace), headers, request);
        self.within(time, call).await
    }

    /// What becomes of a call to containerd within that time.
    async fn within<R>(
        &self,
        time: Duration,
        call: impl Future<Output = std::result::Result<R, Status>>,
    ) -> Asked<R> {
        let name = self.shared.containerd.socket().display();
        match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => Asked::Answer(answer),
            Ok(Err(status)) if is_containerds(&status) => {
                Asked::Refused(Error::Answered(status.code() as i32, status.message().to_owned()))
            }
            Ok(Err(status)) => {
                let inner = innermost(&status);
                let why = format!("containerd at {name} cannot be reached: {inner}");
                let nobody = |e: &io::Error| {
                    matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
                };
                if inner.downcast_ref().is_some_and(nobody) {
                    Asked::Unreached(why)
                } else {
                    Asked::Unknown(why)
                }
            }
            Err(_) => {
                *self.silent() = Some(Instant::now());
                Asked::Unknown(format!("containerd at {name} did not answer within {time:?}"))
            }
        }
    }

    /// Asks containerd for a reply that is given on as it comes, with the share of the budget that it takes:
    /// it may be as large as any, so it is not read before there is room for it. One of at most `small`
    /// bytes needs no share.
    pub(super) async fn ask_for_reply<Q: Message>(
        &self,
        call: &Call,
        path: &'static str,
        namespace: &Namespace,
        request: Q,
        small: usize,
    ) -> Asked<Reply> {
        let containerd = &self.shared.containerd;
        if small > 0 {
            let asked = request.clone();
            let reply = containerd.call_for_bytes(path, namespace, &call.headers, asked, small);
            match self.within(ANSWER.0, reply).await {
                Asked::Answer(Some(message)) => {
                    return Asked::Answer(Reply { message, hold: None });
                }
                Asked::Answer(None) => {}
                Asked::Refused(e) => return Asked::Refused(e),
                Asked::Unreached(why) => return Asked::Unreached(why),
                Asked::Unknown(why) => return Asked::Unknown(why),
            }
        }
        let mut hold = self.shared.local.share(MAX_REPLY_BYTES).await;
        let reply =
            containerd.call_for_bytes(path, namespace, &call.headers, request, MAX_REPLY_BYTES);
        match self.within(ANSWER.0, reply).await {
            Asked::Answer(Some(message)) if message.len() <= call.reply_limit => {
                if let Some(hold) = &mut hold {
                    hold.shrink(message.len());
                }
                Asked::Answer(Reply { message, hold })
            }
            Asked::Answer(found) => {
                let size = found.map_or(MAX_REPLY_BYTES + 1, |message| message.len());
                Asked::Refused(Error::message_too_large(size, call.reply_limit))
            }
            Asked::Refused(e) => Asked::Refused(e),
            Asked::Unreached(why) => Asked::Unreached(why),
            Asked::Unknown(why) => Asked::Unknown(why),
        }
    }

    /// Whether containerd is worth asking for a read: not while it has just let one wait.
    pub(super) fn is_answering(&self) -> bool {
        self.silent().is_none_or(|since| since.elapsed() > ANSWER.0)
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
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
