//! Watching: a cursor in the log, and a filter. A watch has no queue and holds no snapshot: it is woken by
//! the number of the newest change, reads a few changes, and reads on when its client has taken them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::change_filter::ChangeFilter;
use super::errors::{check_epoch, check_position, compacted, epoch_changed, log_off, parse_epoch};
use super::initial::InitialState;
use crate::api::catalog::watch_response::Is;
use crate::api::catalog::{InitialEnd, Progress, Started, WatchRequest, WatchResponse};
use crate::limits::client::Client;
use crate::limits::memory::{MemoryBudget, Reservation};
use crate::limits::streams::{StreamKind, StreamSlot};
use crate::model::{Error, Result};
use crate::service::Reply;
use crate::service::cancel::Cancel;
use crate::service::codec::{encode, push_field};
use crate::service::local::LocalImages;
use crate::store::{LogHead, LogPage, Store};

/// The bytes of changes that a watch reads and sends at a time. It never splits a commit, so a message may be
/// larger.
const SMALL_READ_BYTES: usize = 16 << 10;

/// The bytes of the log that a read on the pool copies at a time. Its filter may drop most of them.
const LARGE_READ_BYTES: usize = 256 << 10;

/// The longest time between two messages with the position of a watch that has read changes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The number of changes without a match after which a watch sends its position. Within the interval above,
/// the log could drop the changes after the position that the client knows.
const PROGRESS_CHANGES: u64 = 1000;

/// The changes of one read.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The encoded fields `changes` of a `Changes` or a `ChangesResponse`.
    pub changes: Vec<u8>,
    /// The next change to be read.
    pub next: u64,
    /// The ends of the log.
    pub head: LogHead,
}

/// Reads changes from `from` on, about `max_bytes` bytes, and keeps those that match `filter`.
pub(crate) fn read(
    store: &Store,
    epoch: &Uuid,
    from: u64,
    max_bytes: usize,
    filter: &ChangeFilter,
    cancel: &mut Cancel,
) -> Result<Batch> {
    let query = filter.compile(cancel)?;
    let LogPage { head, entries } = store.read_log(from, max_bytes)?;
    let head = head.ok_or_else(log_off)?;
    if head.epoch != *epoch {
        return Err(epoch_changed(epoch, &head));
    }
    if from < head.first {
        return Err(compacted(from, &head));
    }
    let mut batch = Batch { changes: Vec::new(), next: from, head };
    for entry in entries {
        if filter.matches(query.as_ref(), entry.seq, &entry.bytes, cancel)? {
            push_field(&mut batch.changes, 1, &entry.bytes);
        }
        batch.next = entry.seq.saturating_add(1);
    }
    Ok(batch)
}

/// A message of more bytes needs a reservation of the budget of watches.
const LARGE_MESSAGE_BYTES: usize = 32 << 10;

/// The most bytes of the large messages of all watches together. It is a separate budget: a watcher that does
/// not read keeps its reservation for a while, and writers must not wait for it.
const LARGE_MESSAGES_BYTES: u32 = 4 << 20;

/// The budget that the large messages of all watches share.
pub(crate) fn large_messages_budget() -> MemoryBudget {
    MemoryBudget::new(LARGE_MESSAGES_BYTES).for_streams()
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    local: LocalImages,
    client: Client,
    filter: Arc<ChangeFilter>,
    news: Receiver<Option<LogHead>>,
    epoch: Uuid,
    /// The next change to be read.
    next: u64,
    /// The newest position that the watch has sent to the client.
    reported: u64,
    progress_at: Instant,
    phase: Phase,
    /// The reservation of the next message, if that is large.
    reservation: Option<Reservation>,
    large: MemoryBudget,
    _slot: StreamSlot,
}

#[derive(Debug)]
enum Phase {
    Starting(Option<Box<InitialState>>),
    Initial(Box<InitialState>),
    Changes,
}

impl Watch {
    /// Begins a watch.
    pub fn begin(
        local: &LocalImages,
        large: &MemoryBudget,
        client: Client,
        request: WatchRequest,
    ) -> Result<Self> {
        let filter = Arc::new(ChangeFilter::new(request.namespaces, request.filters)?);
        let slot = local.events().streams().admit(client, StreamKind::Watch)?;
        let mut news = local.store().watch_log();
        let head = (*news.borrow_and_update()).ok_or_else(log_off)?;
        let next = match request.from {
            0 => {
                check_epoch(parse_epoch(&request.epoch)?, &head)?;
                head.last.saturating_add(1)
            }
            from => {
                check_position(&request.epoch, from, &head)?;
                from
            }
        };
        if request.initial_state && request.from > 0 {
            return Err(Error::invalid_argument(
                "WatchRequest.from must be 0 with initial_state: the state is that of now",
            ));
        }
        let initial =
            request.initial_state.then(|| Box::new(InitialState::new(Arc::clone(&filter))));
        Ok(Self {
            local: local.clone(),
            client,
            filter,
            news,
            epoch: head.epoch,
            next,
            reported: next.saturating_sub(1),
            progress_at: Instant::now() + PROGRESS_INTERVAL,
            phase: Phase::Starting(initial),
            reservation: None,
            large: large.clone(),
            _slot: slot,
        })
    }

    /// Waits for the next message, an encoded `WatchResponse`. A large message has a reservation, so the client
    /// should read it soon. After an error the watch has ended.
    pub async fn next(&mut self) -> Result<Reply> {
        let message = self.next_message().await?;
        Ok(Reply { message, reservation: self.reservation.take() })
    }

    async fn next_message(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Phase::Starting(initial) = &mut self.phase {
                let initial = initial.take();
                self.phase = initial.map_or(Phase::Changes, Phase::Initial);
                return self.started();
            }
            if let Phase::Initial(initial) = &mut self.phase {
                if let Some(changes) = initial.next(&self.local, self.client).await? {
                    return Ok(changes_message(&changes));
                }
                self.phase = Phase::Changes;
                let end = InitialEnd { seq: self.reported, ..InitialEnd::default() };
                return message(Is::InitialEnd(end));
            }
            let head = (*self.news.borrow_and_update()).ok_or_else(log_off)?;
            if head.epoch != self.epoch {
                return Err(epoch_changed(&self.epoch, &head));
            }
            if self.next <= head.last {
                let batch = self.read().await?;
                let size = batch.changes.len();
                if size > LARGE_MESSAGE_BYTES && self.reservation.is_none() {
                    // A watch must not have the batch in memory while it waits. It reads the batch again.
                    drop(batch);
                    self.reservation = self.large.reserve(self.client, size).await;
                    continue;
                }
                self.next = batch.next;
                if !batch.changes.is_empty() {
                    self.set_reported();
                    return Ok(changes_message(&batch.changes));
                }
                if self.must_report(&batch.head) {
                    return self.progress();
                }
                continue;
            }
            if self.must_report(&head) {
                return self.progress();
            }
            tokio::select! {
                changed = self.news.changed() => {
                    changed.map_err(|_| Error::shutting_down())?;
                }
                () = sleep_until(self.progress_at) => return self.progress(),
            }
        }
    }

    /// Whether the watch must send its position now, because otherwise the client could not resume.
    fn must_report(&self, head: &LogHead) -> bool {
        let seen = self.next.saturating_sub(1);
        seen > self.reported
            && (seen - self.reported >= PROGRESS_CHANGES
                || self.reported.saturating_add(1) < head.first)
    }

    fn started(&self) -> Result<Vec<u8>> {
        let head = (*self.news.borrow()).ok_or_else(log_off)?;
        message(Is::Started(Started {
            epoch: self.epoch.to_string(),
            first: head.first,
            last: head.last,
            next: self.next,
            ..Started::default()
        }))
    }

    fn progress(&mut self) -> Result<Vec<u8>> {
        self.set_reported();
        message(Is::Progress(Progress { seq: self.reported, ..Progress::default() }))
    }

    fn set_reported(&mut self) {
        self.reported = self.next.saturating_sub(1);
        self.progress_at = Instant::now() + PROGRESS_INTERVAL;
    }

    async fn read(&self) -> Result<Batch> {
        read_changes(
            &self.local,
            self.client,
            self.epoch,
            self.next,
            SMALL_READ_BYTES,
            &self.filter,
        )
        .await
    }
}

/// Reads changes: at once if that takes little time, else on the pool.
pub(crate) async fn read_changes(
    local: &LocalImages,
    client: Client,
    epoch: Uuid,
    from: u64,
    max_bytes: usize,
    filter: &Arc<ChangeFilter>,
) -> Result<Batch> {
    if filter.is_simple() && max_bytes <= SMALL_READ_BYTES {
        return read(local.store(), &epoch, from, max_bytes, filter, &mut Cancel::never());
    }
    let (store, filter) = (local.store().clone(), Arc::clone(filter));
    let max_bytes = max_bytes.max(LARGE_READ_BYTES);
    let work =
        move |mut cancel: Cancel| read(&store, &epoch, from, max_bytes, &filter, &mut cancel);
    local.pool().run(client, work).await
}

fn changes_message(changes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(changes.len() + 8);
    push_field(&mut message, 2, changes);
    message
}

fn message(is: Is) -> Result<Vec<u8>> {
    encode(&WatchResponse { is: Some(is), ..WatchResponse::default() })
}
