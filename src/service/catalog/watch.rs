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

/// The bytes of changes that a watch reads and sends at a time. A commit is never split, so there may be
/// more.
const SMALL_READ_BYTES: usize = 16 << 10;

/// Bytes of the log that a read on the pool copies at a time: its filter may drop most of them.
const LARGE_READ_BYTES: usize = 256 << 10;

/// How long a watch that has nothing to send keeps what it has seen to itself.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The changes that do not match after which a watch says how far it is: in less than the time above the
/// log may have dropped what its client has seen.
const PROGRESS_CHANGES: u64 = 1000;

/// Changes that were read at once.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The encoded fields `changes` of a `Changes` or a `ChangesResponse`.
    pub changes: Vec<u8>,
    /// The next change to be read.
    pub next: u64,
    /// The ends of the log.
    pub head: LogHead,
}

/// Reads changes from `from` on, about `max_bytes` bytes, and keeps those that are wanted.
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

/// The bytes of a message from which on it takes a share of the budget of watches.
const LARGE_MESSAGE_BYTES: usize = 32 << 10;

/// The bytes that the large messages of all watches have together. It is a budget of their own: a watcher
/// that does not read holds its share for a while, and writers must not wait for it.
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
    /// The newest change that the client knows to be handled.
    told: u64,
    progress_at: Instant,
    phase: Phase,
    /// For the next message, if that is large.
    hold: Option<Reservation>,
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
            told: next.saturating_sub(1),
            progress_at: Instant::now() + PROGRESS_INTERVAL,
            phase: Phase::Starting(initial),
            hold: None,
            large: large.clone(),
            _slot: slot,
        })
    }

    /// Waits for the next message, an encoded `WatchResponse`. A large one has a share of a budget, and
    /// should be read soon. After an error the watch has ended.
    pub async fn next(&mut self) -> Result<Reply> {
        let message = self.next_message().await?;
        Ok(Reply { message, hold: self.hold.take() })
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
                let end = InitialEnd { seq: self.told, ..InitialEnd::default() };
                return message(Is::InitialEnd(end));
            }
            let head = (*self.news.borrow_and_update()).ok_or_else(log_off)?;
            if head.epoch != self.epoch {
                return Err(epoch_changed(&self.epoch, &head));
            }
            if self.next <= head.last {
                let batch = self.read().await?;
                let size = batch.changes.len();
                if size > LARGE_MESSAGE_BYTES && self.hold.is_none() {
                    // Nothing is held while waiting; then it is read again.
                    drop(batch);
                    self.hold = self.large.reserve(self.client, size).await;
                    continue;
                }
                self.next = batch.next;
                if !batch.changes.is_empty() {
                    self.is_told();
                    return Ok(changes_message(&batch.changes));
                }
                if self.must_tell(&batch.head) {
                    return self.progress();
                }
                continue;
            }
            if self.must_tell(&head) {
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

    /// Whether the client must hear now how far the watch is, or else could not resume.
    fn must_tell(&self, head: &LogHead) -> bool {
        let seen = self.next.saturating_sub(1);
        seen > self.told
            && (seen - self.told >= PROGRESS_CHANGES || self.told.saturating_add(1) < head.first)
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
        self.is_told();
        message(Is::Progress(Progress { seq: self.told, ..Progress::default() }))
    }

    fn is_told(&mut self) {
        self.told = self.next.saturating_sub(1);
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
