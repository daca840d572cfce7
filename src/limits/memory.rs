//! A bound on the memory that large messages take together.
//!
//! Small messages are free: their number is bounded by the calls a connection may have open. A
//! large one waits until its size fits beside the others, and holds its share until it is sent.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this many bytes need no share.
pub const SMALL: usize = 4 << 10;

/// A number of bytes to be shared. Clones share the same bytes.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// A share of a [`MemoryBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.permit.split(self.bytes().saturating_sub(bytes)));
    }
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), bytes }
    }

    /// Waits for a share of `size` bytes. What is larger than the whole budget gets all of it.
    /// Nothing is held for a small message.
    pub async fn reserve(&self, size: usize) -> Option<Reservation> {
        if size <= SMALL {
            return None;
        }
        let bytes = u32::try_from(size).map_or(self.bytes, |size| size.min(self.bytes));
        // The semaphore is never closed.
        Arc::clone(&self.free)
            .acquire_many_owned(bytes)
            .await
            .ok()
            .map(|permit| Reservation { permit })
    }

    /// A share of `size` bytes, if nobody need wait for it.
    fn try_reserve(&self, size: usize) -> Option<Reservation> {
        let bytes = u32::try_from(size).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Reservation { permit })
    }
}

/// Room for one message. It grows with the message while the budget has bytes to spare, without
/// waiting: whoever fills it may hold a transaction.
#[derive(Debug)]
pub struct ReplyBuffer<'b> {
    /// Where more comes from.
    budget: Option<&'b MemoryBudget>,
    hold: Option<Reservation>,
    size: usize,
    limit: usize,
}

impl<'b> ReplyBuffer<'b> {
    /// Room that grows up to `limit` bytes.
    pub fn elastic(budget: &'b MemoryBudget, limit: usize) -> Self {
        Self { budget: Some(budget), hold: None, size: SMALL.min(limit), limit }
    }

    /// Room for `size` bytes, of which the share of the budget, if one is due, is held already.
    pub fn fixed(size: usize, hold: Option<Reservation>) -> Self {
        Self { budget: None, hold, size, limit: size }
    }

    /// Whether there is room for a message of `size` bytes. Once there is none, nothing is held.
    pub fn try_grow(&mut self, size: usize) -> bool {
        if size > self.size && !self.grow(size) {
            (self.budget, self.hold, self.size) = (None, None, 0);
        }
        size <= self.size
    }

    fn grow(&mut self, size: usize) -> bool {
        let Some(budget) = self.budget else { return false };
        if size > self.limit {
            return false;
        }
        let held = self.hold.as_ref().map_or(0, Reservation::bytes);
        // Twice as much, so that it seldom asks; or just enough.
        for wanted in [size.saturating_mul(2).min(self.limit), size] {
            if let Some(more) = budget.try_reserve(wanted - held) {
                match &mut self.hold {
                    Some(hold) => hold.permit.merge(more.permit),
                    None => self.hold = Some(more),
                }
                self.size = wanted;
                return true;
            }
        }
        false
    }

    /// The share of the budget that a finished message of `size` bytes keeps.
    pub fn finish(self, size: usize) -> Option<Reservation> {
        let mut hold = self.hold?;
        hold.shrink(size);
        (size > SMALL).then_some(hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn large_messages_wait_for_each_other_and_small_ones_do_not() {
        let budget = MemoryBudget::new(100_000);
        let mut first = budget.reserve(80_000).now_or_never().unwrap().unwrap();
        assert!(budget.reserve(SMALL).now_or_never().unwrap().is_none());
        assert!(budget.reserve(30_000).now_or_never().is_none());
        first.shrink(50_000);
        let second = budget.reserve(30_000).now_or_never().unwrap();
        assert!(budget.reserve(1 << 40).now_or_never().is_none());
        drop((first, second));
        assert_eq!(budget.reserve(1 << 40).now_or_never().unwrap().unwrap().bytes(), 100_000);
    }

    #[test]
    fn room_grows_while_there_is_some_to_spare_and_then_holds_nothing() {
        let budget = MemoryBudget::new(200_000);
        let free = || budget.free.available_permits();
        let mut room = ReplyBuffer::elastic(&budget, 150_000);
        assert!(room.try_grow(SMALL));
        assert_eq!(free(), 200_000);
        assert!(room.try_grow(50_000));
        assert_eq!(free(), 100_000);
        assert!(room.try_grow(110_000));
        assert_eq!(free(), 50_000);
        let mut other = ReplyBuffer::elastic(&budget, 150_000);
        assert!(other.try_grow(40_000));
        assert!(!other.try_grow(60_000));
        assert!(!other.try_grow(1));
        assert_eq!(free(), 50_000);
        let hold = room.finish(110_000);
        assert_eq!(free(), 90_000);
        drop(hold);
        let mut room = ReplyBuffer::elastic(&budget, 150_000);
        assert!(room.try_grow(150_000) && !room.try_grow(150_001));
        assert_eq!(free(), 200_000);
        assert!(ReplyBuffer::elastic(&budget, 10).finish(10).is_none());
        let mut room = ReplyBuffer::fixed(SMALL + 1, None);
        assert!(room.try_grow(SMALL + 1) && !room.try_grow(SMALL + 2));
    }
}
