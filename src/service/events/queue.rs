//! The events that wait for subscribers: one queue for all subscribers.
//!
//! The queue has each event in memory once, for all subscribers. Each subscriber has only a position in the
//! queue. A full queue drops the oldest events, even unread ones, and the slowest subscribers learn that they
//! missed events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::event::Event;

/// The most events in the queue.
pub(crate) const MAX_EVENTS: usize = 1024;

/// The most memory of the events in the queue, in bytes.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// The most memory of the events that subscribers are reading, in bytes.
const MAX_HELD_BYTES: usize = 4 << 20;

/// The queue. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The position behind the newest event.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    /// The position of the oldest event.
    first: u64,
    bytes: usize,
    held_bytes: usize,
    /// The number of subscribers at each position.
    positions: BTreeMap<u64, usize>,
}

/// The number of events that were dropped before the subscriber read them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missed(pub(crate) u64);

impl Default for Queue {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), end: watch::Sender::new(0) }))
    }
}

impl Queue {
    /// Appends an event if the queue has a subscriber.
    pub(crate) fn push(&self, event: impl FnOnce() -> Event) {
        if self.lock().positions.is_empty() {
            return;
        }
        let event = Arc::new(event());
        let mut state = self.lock();
        state.bytes += event.size();
        state.events.push_back(event);
        while state.events.len() > MAX_EVENTS || state.bytes > MAX_BYTES {
            state.drop_oldest();
        }
        let end = state.end();
        drop(state);
        self.0.end.send_replace(end);
    }

    /// Returns a cursor behind all events.
    pub(crate) fn subscribe(&self) -> Cursor {
        let mut state = self.lock();
        let position = state.end();
        *state.positions.entry(position).or_default() += 1;
        Cursor { queue: self.clone(), position, end: self.0.end.subscribe() }
    }

    /// The event at a position; none at the end.
    pub(crate) fn get(&self, position: u64) -> Result<Option<Arc<Event>>, Missed> {
        let state = self.lock();
        let index =
            position.checked_sub(state.first).ok_or_else(|| Missed(state.first - position))?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        Ok(state.events.get(index).cloned())
    }

    /// Keeps an event in memory, even if the queue drops it. `None` if the kept events would take more than
    /// [`MAX_HELD_BYTES`].
    pub(crate) fn try_keep(&self, event: Arc<Event>) -> Option<KeptEvent> {
        let mut state = self.lock();
        let held_bytes = state.held_bytes + event.size();
        if held_bytes > MAX_HELD_BYTES {
            return None;
        }
        state.held_bytes = held_bytes;
        Some(KeptEvent { queue: self.clone(), event })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.size();
            self.first += 1;
        }
    }

    /// Removes a subscriber from a position, and drops the events that all subscribers have read.
    fn leave(&mut self, position: u64) {
        if let Some(count) = self.positions.get_mut(&position) {
            *count -= 1;
            if *count == 0 {
                self.positions.remove(&position);
            }
        }
        let needed = self.positions.first_key_value().map_or(self.end(), |(first, _)| *first);
        while self.first < needed && !self.events.is_empty() {
            self.drop_oldest();
        }
    }
}

/// An event that stays in memory while a subscriber reads it.
#[derive(Debug)]
pub(crate) struct KeptEvent {
    queue: Queue,
    event: Arc<Event>,
}

impl KeptEvent {
    /// The event.
    pub(crate) fn event(&self) -> &Arc<Event> {
        &self.event
    }
}

impl Drop for KeptEvent {
    fn drop(&mut self) {
        self.queue.lock().held_bytes -= self.event.size();
    }
}

/// A subscriber's position.
#[derive(Debug)]
pub(crate) struct Cursor {
    queue: Queue,
    position: u64,
    end: watch::Receiver<u64>,
}

impl Cursor {
    /// The queue.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The position.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The event at the position; none at the end.
    pub(crate) fn event(&self) -> Result<Option<Arc<Event>>, Missed> {
        self.queue.get(self.position)
    }

    /// Moves to a later position.
    pub(crate) fn move_to(&mut self, position: u64) {
        let mut state = self.queue.lock();
        *state.positions.entry(position).or_default() += 1;
        state.leave(self.position);
        self.position = position;
    }

    /// Waits until there is an event.
    pub(crate) async fn wait(&mut self) {
        let position = self.position;
        // The sender lives as long as the queue.
        let _ = self.end.wait_for(|end| *end > position).await;
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.queue.lock().leave(self.position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::event::Envelope;

    fn push(queue: &Queue, bytes: usize) {
        queue.push(|| Event::new(Envelope::default(), vec![0; bytes]));
    }

    #[test]
    fn waiting_events_are_bounded_in_number_and_bytes() {
        let queue = Queue::default();
        let slow = queue.subscribe();
        for _ in 0..MAX_EVENTS + 10 {
            push(&queue, 10);
        }
        assert_eq!(slow.event().unwrap_err(), Missed(10));
        for _ in 0..100 {
            push(&queue, MAX_BYTES / 50);
        }
        assert!(queue.lock().bytes <= MAX_BYTES && queue.lock().events.len() < 50);
    }

    #[test]
    fn the_events_that_subscribers_read_are_bounded() {
        let queue = Queue::default();
        let event = || Arc::new(Event::new(Envelope::default(), vec![0; MAX_HELD_BYTES / 2]));
        let kept = queue.try_keep(event());
        assert!(kept.is_some() && queue.try_keep(event()).is_none());
        drop(kept);
        assert!(queue.try_keep(event()).is_some());
    }

    #[test]
    fn an_event_that_all_subscribers_have_read_takes_no_memory() {
        let queue = Queue::default();
        push(&queue, 10);
        assert_eq!(queue.lock().events.len(), 0, "without a subscriber");
        let (mut one, two) = (queue.subscribe(), queue.subscribe());
        push(&queue, 10);
        push(&queue, 10);
        one.move_to(2);
        assert_eq!(queue.lock().events.len(), 2);
        drop(two);
        assert_eq!(queue.lock().bytes, 0);
        assert_eq!(one.event(), Ok(None));
        push(&queue, 10);
        assert!(one.event().unwrap().is_some());
        drop(one);
        assert_eq!(queue.lock().events.len(), 0);
    }
}
