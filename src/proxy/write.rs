//! The way of a write: containerd makes the change that a client asks for, and its answer is stored in the
//! copy.
//!
//! Both happen under the record's lock, in a detached task: a client that disconnects cannot stop it halfway.

use futures_util::FutureExt;
use go_compat::quote::quote;
use http::HeaderMap;
use protobuf::Message;

use crate::api::images::{GetImageRequest, GetImageResponse, Image};
use crate::containerd::client::MAX_NAME;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result};
use crate::proxy::copy::Removal;
use crate::proxy::images::ProxyImages;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome, WRITE_TIMEOUT};
use crate::proxy::undo_keep::TargetChange;
use crate::service::codec::encode;
use crate::service::{CallContext, Reply};
use crate::store::Cause;

impl ProxyImages {
    /// Forwards a change to containerd and stores the answer, even if the client disconnects. So the
    /// change keeps a reservation of `bytes`, the memory of request and answer, until it ends. With a
    /// `target`, the change is made only if the image has that digest. What the change loses may be kept
    /// for an undo before.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn write<Q, R>(
        &self,
        call: &CallContext,
        path: &'static str,
        name: String,
        target: String,
        loss: Option<TargetChange>,
        bytes: usize,
        request: Q,
        made: impl FnOnce(&R) -> Option<Image> + Send + 'static,
    ) -> Result<Reply>
    where
        Q: Message,
        R: Message,
    {
        let (proxy, namespace, headers) = (self.clone(), call.namespace()?, call.headers.clone());
        let (limit, cause) = (call.reply_limit, call.cause());
        if name.len() > MAX_NAME {
            return Err(Error::InvalidArgument(format!(
                "the image name has {} bytes; in front of a containerd at most {MAX_NAME} are accepted: \
                 choose a shorter name, or change this image on containerd's own socket",
                name.len()
            )));
        }
        let mut hold = self.shared.local.reserve(call.client, bytes).await;
        let write = async move {
            // The timeout includes the wait for an earlier write to the same record.
            let begun = tokio::time::Instant::now();
            let lock = proxy.shared.locks.lock(&namespace, &name);
            let Ok(_lock) = tokio::time::timeout(WRITE_TIMEOUT, lock).await else {
                return Err(Error::Unavailable(format!(
                    "containerd has not answered an earlier change of image {}; nothing was changed",
                    quote(&name)
                )));
            };
            proxy.check_target(&namespace, &name, &target).await?;
            proxy.keep_for_undo(&namespace, &name, loss).await;
            let time = WRITE_TIMEOUT.saturating_sub(begun.elapsed()).max(READ_TIMEOUT);
            match proxy.ask::<Q, R>(path, &namespace, &headers, request, time).await {
                UpstreamOutcome::Answer(answer) => {
                    proxy.apply_result(cause, &namespace, &name, made(&answer)).await;
                    let message = encode(&answer)?;
                    if let Some(hold) = &mut hold {
                        hold.shrink(message.len());
                    }
                    Ok(Reply { message, reservation: hold })
                }
                UpstreamOutcome::Refused(e) => Err(e),
                UpstreamOutcome::NotSent(why) => Err(Error::Unavailable(format!(
                    "{why}; nothing was changed: try again when it is back"
                ))),
                UpstreamOutcome::Indeterminate(why) => {
                    proxy.schedule_reconcile(&namespace);
                    Err(Error::Unavailable(format!(
                        "{why}; it is unknown whether the change was made: try again or look"
                    )))
                }
            }
        };
        let detached = tokio::spawn(write.boxed());
        let into_error = |e| Error::Internal(format!("writing an image: {e}"));
        let reply = detached.await.map_err(into_error)??;
        if reply.message.len() > limit {
            return Err(Error::message_too_large(reply.message.len(), limit));
        }
        Ok(reply)
    }

    /// Checks the target of a Delete, because containerd 1.x ignores it and deletes the image anyway.
    async fn check_target(&self, namespace: &Namespace, name: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let get = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        match self
            .ask::<_, GetImageResponse>(path, namespace, &HeaderMap::new(), get, READ_TIMEOUT)
            .await
        {
            UpstreamOutcome::Answer(found) if found.image.target.digest != *wanted => {
                Err(Error::not_found(format_args!(
                    "image {} has target {}, not {wanted}",
                    quote(name),
                    found.image.target.digest
                )))
            }
            UpstreamOutcome::Answer(_) => Ok(()),
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(format!("{why}; nothing was changed")))
            }
        }
    }

    /// Stores the result of a write, and gives the number of the change in the log. containerd has made the
    /// change already, so the write succeeds even if LMDB cannot store the result.
    pub(super) async fn apply_result(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        made: Option<Image>,
    ) -> u64 {
        let stored = match made {
            Some(image) => {
                self.observe(namespace);
                self.store_record(cause, namespace, Some(image)).await
            }
            None => {
                let removed = self.remove_record(cause, namespace, name, Removal::Delete).await;
                removed.map(Option::unwrap_or_default)
            }
        };
        stored.unwrap_or_else(|e| {
            throttled_log!(Error, "image {} in namespace {namespace}: {e}", quote(name));
            self.schedule_reconcile(namespace);
            0
        })
    }
}
