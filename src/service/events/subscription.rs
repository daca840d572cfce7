//! What one subscriber gets: the events that match its filters, piece by piece.
//!
//! Filters are matched on the pool, in turns with what other clients have there, never on a thread of
//! connections. An event leaves in pieces that are copied as the client reads them. While it does, the
//! subscriber holds the event, if there is memory to spare for that; else it may find that the rest of
//! the event is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{Cursor, HeldEvent, Missed, Queue};
use super::subscribers::{Admission, SharedFilter};
use crate::limits::client::Client;
use crate::model::{Error, Result};
use crate::service::cancel::Cancel;
use crate::service::pool::{Attempt, Lane, Pool, QUICK_TIMEOUT};

/// The most bytes of a piece.
pub const MAX_PIECE: usize = 8 << 10;

/// How long events are matched before other work on the pool has its turn.
const TURN: Duration = Duration::from_millis(20);

/// A part of an encoded `Envelope`.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of the first piece of an event: the bytes of all its pieces.
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
    pub(super) sending: Option<Sending>,
    pub(super) _admission: Admission,
}

/// An event on its way.
#[derive(Debug)]
pub struct Sending {
    /// How many bytes of it were taken.
    taken: usize,
    held: Option<HeldEvent>,
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
            self.sending = matches.then_some(Sending { taken: 0, held: None });
        }
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        let Some(mut sending) = self.sending.take() else { return Ok(None) };
        let event = match &sending.held {
            Some(held) => Some(Arc::clone(held.event())),
            None => self.cursor.event().map_err(missed)?,
        };
        let Some(event) = event else { return Ok(None) };
        let message = event.message();
        let rest = message.get(sending.taken..).unwrap_or_default();
        let bytes = rest.get(..MAX_PIECE).unwrap_or(rest).to_vec();
        let total = (sending.taken == 0).then_some(message.len());
        sending.taken += bytes.len();
        if sending.taken >= message.len() {
            self.cursor.move_to(self.cursor.position() + 1);
        } else {
            sending.held = sending.held.or_else(|| self.cursor.queue().hold(Arc::clone(&event)));
            self.sending = Some(sending);
        }
        Ok(Some(Piece { total, bytes }))
    }

    /// The position of the next event that matches, and true; or one up to which none does.
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
    while begun.elapsed() < TURN {
        let Some(event) = queue.get(position).map_err(missed)? else { break };
        let mut step = || cancel.check();
        match filter.filter().try_matches(&*event, &mut step) {
            Ok(true) => return Ok((position, true)),
            Ok(false) => position += 1,
            // Those before it took their part of the time.
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
