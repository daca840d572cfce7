//! How long something that reads much may go on: while somebody waits for it, and not for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::{Error, Result};

/// A List through 100,000 images takes some 20 ms (`scripts/bench beside`); only filters that are made to be slow take so
/// long. It holds one of the few places for Lists meanwhile.
const TIME: Duration = Duration::from_secs(30);

/// How many steps may be taken between two looks at the clock.
const STEPS: u32 = 16;

/// What the work asks whether it may go on.
#[derive(Clone, Debug)]
pub struct Patience {
    gone: Arc<AtomicBool>,
    until: Option<Instant>,
    steps: u32,
}

/// Who waits. Dropped, the work is told to stop.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Patience {
    /// From now on, while what is returned beside it lives.
    pub fn new() -> (Waiting, Self) {
        Self::of(TIME)
    }

    fn of(time: Duration) -> (Waiting, Self) {
        let gone = Arc::new(AtomicBool::new(false));
        let until = Instant::now().checked_add(time);
        (Waiting(Arc::clone(&gone)), Self { gone, until, steps: 0 })
    }

    /// For somebody who waits however long it takes, at a terminal.
    pub fn endless() -> Self {
        Self { gone: Arc::default(), until: None, steps: 0 }
    }

    /// One more step is to be taken: an error when there is no time for it, or nobody waits.
    pub fn step(&mut self) -> Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("nobody waits for the answer any more".into()));
        }
        self.steps = self.steps.wrapping_add(1);
        let over = |until| Instant::now() > until;
        if self.steps.is_multiple_of(STEPS) && self.until.is_some_and(over) {
            return Err(Error::DeadlineExceeded(format!(
                "the list was not done within {TIME:?}: ask with fewer or simpler filters"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_nobody_waits_or_the_time_is_over() {
        let (waiting, mut patience) = Patience::new();
        assert!((0..STEPS * 2).all(|_| patience.step().is_ok()));
        drop(waiting);
        assert!(matches!(patience.step(), Err(Error::Unavailable(_))));

        let (_waiting, mut patience) = Patience::of(Duration::ZERO);
        let steps = (0..STEPS).map(|_| patience.step()).find_map(std::result::Result::err);
        assert!(matches!(steps, Some(Error::DeadlineExceeded(_))));
    }
}
