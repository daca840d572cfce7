//! Calls to containerd, each with a timeout.

use std::io::{self, ErrorKind};
use std::time::Duration;

use http::HeaderMap;
use protobuf::Message;
use tonic::Status;

use crate::containerd::codec::encode;
use crate::model::{Error, Namespace};
use crate::proxy::images::ProxyImages;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome};
use crate::service::{CallContext, Reply};

/// The largest reply of a containerd with default settings, in bytes.
const MAX_REPLY_BYTES: usize = 16 << 20;

impl ProxyImages {
    /// Makes a unary call with the timeout `timeout`.
    pub(crate) async fn ask<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        headers: &HeaderMap,
        request: Q,
        timeout: Duration,
    ) -> UpstreamOutcome<R> {
        let call = self.shared.containerd.call(path, Some(namespace), headers, request);
        self.outcome(timeout, call).await
    }

    /// Waits for `call`, for `timeout` at most.
    async fn outcome<R>(
        &self,
        timeout: Duration,
        call: impl Future<Output = std::result::Result<R, Status>>,
    ) -> UpstreamOutcome<R> {
        let name = self.shared.containerd.socket().display();
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => UpstreamOutcome::Answer(answer),
            Ok(Err(status)) if is_containerds(&status) => UpstreamOutcome::Refused(
                Error::Upstream(status.code() as i32, status.message().to_owned()),
            ),
            Ok(Err(status)) => {
                let inner = innermost(&status);
                let why = format!("containerd at {name} cannot be reached: {inner}");
                let has_no_listener = |e: &io::Error| {
                    matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
                };
                if inner.downcast_ref().is_some_and(has_no_listener) {
                    UpstreamOutcome::NotSent(why)
                } else {
                    UpstreamOutcome::Indeterminate(why)
                }
            }
            Err(_) => UpstreamOutcome::Indeterminate(format!(
                "containerd at {name} did not answer within {timeout:?}"
            )),
        }
    }

    /// Calls containerd, and returns the encoded reply with its reservation of memory. The reply may have any
    /// size, so this function reserves the memory before it reads the reply. If `small` is not zero, it first
    /// tries a call for a reply of at most `small` bytes, which needs no reservation.
    pub(crate) async fn ask_for_reply<Q: Message>(
        &self,
        call: &CallContext,
        path: &'static str,
        namespace: &Namespace,
        request: Q,
        small: usize,
    ) -> UpstreamOutcome<Reply> {
        match encode(&request) {
            Ok(message) => self.ask_for_encoded(call, path, namespace, message, small).await,
            Err(status) => self.outcome(READ_TIMEOUT, std::future::ready(Err(status))).await,
        }
    }

    async fn ask_for_encoded(
        &self,
        call: &CallContext,
        path: &'static str,
        namespace: &Namespace,
        message: Vec<u8>,
        small: usize,
    ) -> UpstreamOutcome<Reply> {
        let containerd = &self.shared.containerd;
        if small > 0 {
            let first = message.clone();
            let reply = containerd.call_for_bytes(path, namespace, &call.headers, first, small);
            match self.outcome(READ_TIMEOUT, reply).await {
                UpstreamOutcome::Answer(Some(message)) => {
                    return UpstreamOutcome::Answer(Reply { message, reservation: None });
                }
                UpstreamOutcome::Answer(None) => {}
                UpstreamOutcome::Refused(e) => return UpstreamOutcome::Refused(e),
                UpstreamOutcome::NotSent(why) => return UpstreamOutcome::NotSent(why),
                UpstreamOutcome::Indeterminate(why) => return UpstreamOutcome::Indeterminate(why),
            }
        }
        let mut reservation = self.shared.local.reserve(call.client, MAX_REPLY_BYTES).await;
        let reply =
            containerd.call_for_bytes(path, namespace, &call.headers, message, MAX_REPLY_BYTES);
        match self.outcome(READ_TIMEOUT, reply).await {
            UpstreamOutcome::Answer(Some(message)) if message.len() <= call.reply_limit => {
                if let Some(reservation) = &mut reservation {
                    reservation.shrink(message.len());
                }
                UpstreamOutcome::Answer(Reply { message, reservation })
            }
            UpstreamOutcome::Answer(found) => {
                let size = found.map_or(MAX_REPLY_BYTES + 1, |message| message.len());
                UpstreamOutcome::Refused(Error::message_too_large(size, call.reply_limit))
            }
            UpstreamOutcome::Refused(e) => UpstreamOutcome::Refused(e),
            UpstreamOutcome::NotSent(why) => UpstreamOutcome::NotSent(why),
            UpstreamOutcome::Indeterminate(why) => UpstreamOutcome::Indeterminate(why),
        }
    }
}

/// Whether containerd sent the status, and not the client library.
fn is_containerds(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// The innermost source of an error. The outer layers say only "transport error".
fn innermost(error: &Status) -> &(dyn std::error::Error + 'static) {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}
