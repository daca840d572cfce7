//! A bound on the memory that large messages take together.
//!
//! Small messages are free: their number is bounded by the calls a connection may have open. A
//! large one waits until its size fits beside the others, and holds its share until it is sent.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this many bytes need no share.
pub const SMALL: usize = 16 << 10;

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
}
