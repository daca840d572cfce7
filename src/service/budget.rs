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
pub struct Budget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Hold {
    permit: OwnedSemaphorePermit,
}

impl Hold {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.permit.split(self.bytes().saturating_sub(bytes)));
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), bytes }
    }

    /// Waits for a share of `size` bytes. What is larger than the whole budget gets all of it.
    /// Nothing is held for a small message.
    pub async fn share(&self, size: usize) -> Option<Hold> {
        if size <= SMALL {
            return None;
        }
        let bytes = u32::try_from(size).map_or(self.bytes, |size| size.min(self.bytes));
        // The semaphore is never closed.
        Arc::clone(&self.free).acquire_many_owned(bytes).await.ok().map(|permit| Hold { permit })
    }

    /// A share of `size` bytes, if nobody need wait for it.
    fn spare(&self, size: usize) -> Option<Hold> {
        let bytes = u32::try_from(size).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Hold { permit })
    }
}

/// Room for one message. It grows with the message while the budget has bytes to spare, without
/// waiting: whoever fills it may hold a transaction.
#[derive(Debug)]
pub struct Room<'b> {
    /// Where more comes from.
    budget: Option<&'b Budget>,
    hold: Option<Hold>,
    size: usize,
    limit: usize,
}

impl<'b> Room<'b> {
    /// Room that grows up to `limit` bytes.
    pub fn growing(budget: &'b Budget, limit: usize) -> Self {
        Self { budget: Some(budget), hold: None, size: SMALL.min(limit), limit }
    }

    /// Room for `size` bytes, of which the share of the budget, if one is due, is held already.
    pub fn of(size: usize, hold: Option<Hold>) -> Self {
        Self { budget: None, hold, size, limit: size }
    }

    /// Whether there is room for a message of `size` bytes. Once there is none, nothing is held.
    pub fn fits(&mut self, size: usize) -> bool {
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
        let held = self.hold.as_ref().map_or(0, Hold::bytes);
        // Twice as much, so that it seldom asks; or just enough.
        for wanted in [size.saturating_mul(2).min(self.limit), size] {
            if let Some(more) = budget.spare(wanted - held) {
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
    pub fn close(self, size: usize) -> Option<Hold> {
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
        let budget = Budget::new(100_000);
        let mut first = budget.share(80_000).now_or_never().unwrap().unwrap();
        assert!(budget.share(SMALL).now_or_never().unwrap().is_none());
        assert!(budget.share(30_000).now_or_never().is_none());
        first.shrink(50_000);
        let second = budget.share(30_000).now_or_never().unwrap();
        assert!(budget.share(1 << 40).now_or_never().is_none());
        drop((first, second));
        assert_eq!(budget.share(1 << 40).now_or_never().unwrap().unwrap().bytes(), 100_000);
    }

    #[test]
    fn room_grows_while_there_is_some_to_spare_and_then_holds_nothing() {
        let budget = Budget::new(200_000);
        let free = || budget.free.available_permits();
        let mut room = Room::growing(&budget, 150_000);
        assert!(room.fits(SMALL));
        assert_eq!(free(), 200_000);
        assert!(room.fits(50_000));
        assert_eq!(free(), 100_000);
        assert!(room.fits(110_000));
        assert_eq!(free(), 50_000);
        let mut other = Room::growing(&budget, 150_000);
        assert!(other.fits(40_000));
        assert!(!other.fits(60_000));
        assert!(!other.fits(1));
        assert_eq!(free(), 50_000);
        let hold = room.close(110_000);
        assert_eq!(free(), 90_000);
        drop(hold);
        let mut room = Room::growing(&budget, 150_000);
        assert!(room.fits(150_000) && !room.fits(150_001));
        assert_eq!(free(), 200_000);
        assert!(Room::growing(&budget, 10).close(10).is_none());
        let mut room = Room::of(SMALL + 1, None);
        assert!(room.fits(SMALL + 1) && !room.fits(SMALL + 2));
    }
}
