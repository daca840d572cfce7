//! A subscription: the events that match its filters, piece by piece.
//!
//! The pool matches filters, in turns with the work of other clients; a connection thread never does. The
//! subscription copies an event in pieces, as the client reads them. Meanwhile the event stays in memory, if the
//! bound on such events allows; otherwise the queue may drop the event before its last piece is copied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filters::SharedFilter;
use super::queue::{Cursor, KeptEvent, Missed, Queue};
use crate::limits::client::Client;
use crate::limits::streams::StreamSlot;
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;
use crate::service::pool::{Attempt, Lane, Pool, QUICK_TIMEOUT};

/// The most bytes of a piece.
pub(crate) const MAX_PIECE: usize = 8 << 10;

/// How long a subscription matches events before other work of the pool runs.
const MATCH_QUANTUM: Duration = Duration::from_millis(20);

/// A part of an encoded `Envelope`.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// On the first piece of an event: the bytes of all its pieces.
    pub total: Option<usize>,
    /// The next bytes of the event.
    pub bytes: Vec<u8>,
}

/// Events for one subscriber.
#[derive(Debug)]
pub struct Subscription {
    pub(super) pool: Pool,
    pub(super) client: Client,
    pub(super) filter: Arc<SharedFilter>,
    pub(super) cursor: Cursor,
    /// The event at the cursor, if it matches.
    pub(super) current: Option<CurrentEvent>,
    pub(super) _slot: StreamSlot,
}

/// An event that the client is reading.
#[derive(Debug)]
pub(crate) struct CurrentEvent {
    /// The number of bytes that the client has read.
    read: usize,
    kept: Option<KeptEvent>,
}

impl Subscription {
    /// The next piece. An error is the last item.
    pub async fn next(&mut self) -> Result<Piece> {
        loop {
            if let Some(piece) = self.next_piece()? {
                return Ok(piece);
            }
            self.cursor.wait().await;
            let (position, matches) = self.find().await?;
            self.cursor.move_to(position);
            self.current = matches.then_some(CurrentEvent { read: 0, kept: None });
        }
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        let Some(mut current) = self.current.take() else { return Ok(None) };
        let event = match &current.kept {
            Some(kept) => Some(Arc::clone(kept.event())),
            None => self.cursor.event().map_err(missed)?,
        };
        let Some(event) = event else { return Ok(None) };
        let message = event.message();
        let rest = message.get(current.read..).unwrap_or_default();
        let bytes = rest.get(..MAX_PIECE).unwrap_or(rest).to_vec();
        let total = (current.read == 0).then_some(message.len());
        current.read += bytes.len();
        if current.read >= message.len() {
            self.cursor.move_to(self.cursor.position() + 1);
        } else {
            current.kept =
                current.kept.or_else(|| self.cursor.queue().try_keep(Arc::clone(&event)));
            self.current = Some(current);
        }
        Ok(Some(Piece { total, bytes }))
    }

    /// The position of the next matching event and true, or a position up to which no event matches and false.
    async fn find(&self) -> Result<(u64, bool)> {
        let (queue, from) = (self.cursor.queue().clone(), self.cursor.position());
        if self.filter.filter().matches_all() {
            return match queue.get(from).map_err(missed)? {
                Some(_) => Ok((from, true)),
                None => Ok((from, false)),
            };
        }
        let filter = Arc::clone(&self.filter);
        let work = move |cancel| find(&queue, from, &filter, cancel);
        match self.pool.run_in(Lane::Quick, self.client, work).await? {
            Attempt::Done(found) => Ok(found),
            Attempt::Again(_) => Err(Error::ResourceExhausted(format!(
                "the filters of the subscription took more than {QUICK_TIMEOUT:?} for one event: \
                 subscribe again with fewer or simpler ones"
            ))),
        }
    }
}

fn find(
    queue: &Queue,
    from: u64,
    filter: &SharedFilter,
    mut cancel: Cancel,
) -> Result<(u64, bool)> {
    let (begun, mut position) = (Instant::now(), from);
    while begun.elapsed() < MATCH_QUANTUM {
        let Some(event) = queue.get(position).map_err(missed)? else { break };
        let mut step = || cancel.check();
        match filter.filter().try_matches(&*event, &mut step) {
            Ok(true) => return Ok((position, true)),
            Ok(false) => position += 1,
            // The events before it have used a part of the time.
            Err(_) if position > from => break,
            Err(e) => return Err(e),
        }
    }
    Ok((position, false))
}

fn missed(Missed(count): Missed) -> Error {
    Error::ResourceExhausted(format!(
        "{count} events were missed, as earlier ones were not read in time: subscribe again and list \
         what matters"
    ))
}
