//! Changes of the local store, by its writer thread.

use std::cell::Cell;
use std::sync::Arc;

use super::LocalImages;
use crate::limits::client::Client;
use crate::limits::memory::{Reservation, SMALL};
use crate::model::{Namespace, Result};
use crate::service::events::{Labels, OwnEvent};
use crate::service::images::{ReplyLimits, WriteOutcome, WriteReply};
use crate::service::{CallContext, Reply};
use crate::store::Transaction;

/// The outcome of a change of an image.
enum ChangeOutcome<F, G> {
    /// The change is made: the reply, and the event for subscribers.
    Written(Vec<u8>, Cell<Option<OwnEvent>>),
    /// Nothing was changed: the reply takes this number of bytes. The same work can be tried again.
    Needs(usize, F, G),
}

impl LocalImages {
    /// Makes a change in a namespace for `client`, and emits the event that `event` returns after the
    /// commit. The change takes `bytes` of memory until it is made. It reserves as much of the budget,
    /// because it is made even if its client leaves.
    pub(crate) async fn change<T, F, G>(
        &self,
        client: Client,
        namespace: Namespace,
        bytes: usize,
        work: F,
        event: G,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) -> Option<OwnEvent> + Send + 'static,
    {
        let events = self.events.clone();
        let (collector, place) = (Arc::clone(&self.collector), namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            let made = work(change)?;
            let event = event(&made);
            if let Some(event) = &event {
                collector.observe(&place, event);
            }
            Ok((made, Cell::new(event)))
        };
        let emit = move |(_, event): &(T, Cell<Option<OwnEvent>>)| {
            if let Some(event) = event.take() {
                events.emit(&namespace, event);
            }
        };
        self.change_then(client, bytes, work, emit).await.map(|((made, _), _)| made)
    }

    /// Makes a change that holds `bytes` of the budget, and calls `then` with its result after the commit.
    /// Returns the result and the reservation.
    pub(crate) async fn change_then<T, F, G>(
        &self,
        client: Client,
        bytes: usize,
        work: F,
        then: G,
    ) -> Result<(T, Option<Reservation>)>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T> + Send + 'static,
        G: FnOnce(&T) + Send + 'static,
    {
        let reservation = self.replies.reserve(client, bytes).await;
        let collector = Arc::clone(&self.collector);
        let work = move |change: &mut Transaction<'_>| work(change).map(|made| (made, reservation));
        let then = move |(made, _): &(T, Option<Reservation>)| {
            collector.record_change();
            then(made);
        };
        self.store.writer().write_then(work, then).await
    }

    /// Makes a change of an image, which takes `bytes` of memory, and whose reply carries the image. The
    /// call reserves the bytes of the reply before the change is made: `expected` bytes first, and as many as
    /// the reply takes if those were too few.
    pub(super) async fn change_image<F, G>(
        &self,
        call: &CallContext,
        bytes: usize,
        expected: usize,
        mut work: F,
        mut event: G,
    ) -> Result<Reply>
    where
        F: FnMut(&mut Transaction<'_>, &Namespace, ReplyLimits) -> Result<WriteOutcome>
            + Send
            + 'static,
        G: FnOnce(Labels) -> OwnEvent + Send + 'static,
    {
        let (namespace, limit) = (call.namespace()?, call.reply_limit);
        let mut size = expected.min(limit);
        loop {
            let limits = ReplyLimits { largest: limit, reserved: size.max(SMALL) };
            let (ns, cause) = (namespace.clone(), call.cause());
            let collector = Arc::clone(&self.collector);
            let attempt = move |change: &mut Transaction<'_>| {
                change.set_cause(cause);
                Ok(match work(change, &ns, limits)? {
                    WriteOutcome::Needs(bytes) => ChangeOutcome::Needs(bytes, work, event),
                    WriteOutcome::Written(WriteReply { answer, labels }) => {
                        let event = event(labels);
                        collector.observe(&ns, &event);
                        ChangeOutcome::Written(answer, Cell::new(Some(event)))
                    }
                })
            };
            let (ns, events) = (namespace.clone(), self.events.clone());
            let emit = move |outcome: &ChangeOutcome<F, G>| {
                if let ChangeOutcome::Written(_, event) = outcome
                    && let Some(event) = event.take()
                {
                    events.emit(&ns, event);
                }
            };
            // The call releases its reservation before it waits for another, as in `build_reply`.
            match self.change_then(call.client, bytes.saturating_add(size), attempt, emit).await? {
                (ChangeOutcome::Written(message, _), mut reservation) => {
                    if let Some(reservation) = &mut reservation {
                        reservation.shrink(message.len());
                    }
                    return Ok(Reply { message, reservation });
                }
                (ChangeOutcome::Needs(bytes, same_work, same_event), _) => {
                    (size, work, event) = (bytes, same_work, same_event);
                }
            }
        }
    }
}
