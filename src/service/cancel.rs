//! Cancellation of long reads: a read ends at its deadline, when it needs too much memory, or
//! when its caller is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::filter::Filter;
use crate::model::{Error, Result};

/// The number of steps between two checks of the clock.
const STEPS_PER_CLOCK_CHECK: u32 = 16;

/// A value that long work checks at each step, to find out whether it may go on.
#[derive(Clone, Debug)]
pub struct Cancel {
    state: Arc<State>,
    time: Duration,
    until: Option<Instant>,
    steps: u32,
    memory: usize,
}

#[derive(Debug, Default)]
struct State {
    gone: AtomicBool,
    over: AtomicBool,
    lacks_memory: AtomicBool,
}

/// The caller that waits for the work. Dropping the value cancels the work.
#[derive(Debug)]
pub struct CancelOnDrop(Arc<State>);

impl CancelOnDrop {
    /// Whether the work has reached its deadline.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    /// Whether the work needs more memory than it may take.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.0.lacks_memory.load(Ordering::Relaxed)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

impl Cancel {
    /// Allows work for `time` from now on, while the returned [`CancelOnDrop`] lives. Its filters, and
    /// each record that it reads from containerd's database, may take `memory` bytes.
    pub fn new(time: Duration, memory: usize) -> (CancelOnDrop, Self) {
        let state = Arc::<State>::default();
        let until = Instant::now().checked_add(time);
        (CancelOnDrop(Arc::clone(&state)), Self { state, time, until, steps: 0, memory })
    }

    /// Allows work without a deadline, for a command at a terminal.
    pub fn never() -> Self {
        Self {
            state: Arc::default(),
            time: Duration::MAX,
            until: None,
            steps: 0,
            memory: usize::MAX,
        }
    }

    /// Parses filters with `parse` and compiles their regular expressions.
    ///
    /// # Errors
    /// Those of `parse` and of [`check`](Self::check); [`Error::ResourceExhausted`] when the filters
    /// take more memory than they may.
    pub fn compile(
        &mut self,
        filters: &[String],
        parse: impl FnOnce(&[String]) -> Result<Filter>,
    ) -> Result<Filter> {
        let memory = self.memory;
        if Filter::parsed_size(filters) <= memory {
            let mut filter = parse(filters)?;
            if filter.compile(memory, &mut || self.check())? {
                return Ok(filter);
            }
        }
        Err(self.lack_memory(format!(
            "the filters of the request take more than {memory} bytes: ask with fewer or simpler ones"
        )))
    }

    /// The bytes that the filters may take, and each record that is read from containerd's database.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Notes that the work needs more memory than it may take. Returns the error with which it ends.
    pub(crate) fn lack_memory(&self, why: String) -> Error {
        self.state.lacks_memory.store(true, Ordering::Relaxed);
        Error::ResourceExhausted(why)
    }

    /// Counts one more step of the work.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the caller is gone; [`Error::DeadlineExceeded`] after the deadline.
    pub fn check(&mut self) -> Result<()> {
        if self.state.gone.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("the client no longer waits for the answer".into()));
        }
        self.steps = self.steps.wrapping_add(1);
        let over = |until| Instant::now() > until;
        let was_over = self.state.over.load(Ordering::Relaxed);
        if was_over
            || self.steps.is_multiple_of(STEPS_PER_CLOCK_CHECK) && self.until.is_some_and(over)
        {
            self.state.over.store(true, Ordering::Relaxed);
            return Err(Error::DeadlineExceeded(format!(
                "the request was not done within {:?}: ask with fewer or simpler filters",
                self.time
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ends_when_its_caller_is_gone_or_its_time_is_over() {
        let (waiting, mut cancel) = Cancel::new(Duration::from_secs(30), 0);
        assert!((0..STEPS_PER_CLOCK_CHECK * 2).all(|_| cancel.check().is_ok()));
        drop(waiting);
        assert!(matches!(cancel.check(), Err(Error::Unavailable(_))));

        let (waiting, mut cancel) = Cancel::new(Duration::ZERO, 0);
        assert!((1..STEPS_PER_CLOCK_CHECK).all(|_| cancel.check().is_ok()));
        for _ in 0..2 {
            // The deadline stays passed.
            assert!(matches!(cancel.check(), Err(Error::DeadlineExceeded(_))));
            assert!(waiting.is_over());
        }
    }

    #[test]
    fn filters_with_too_much_memory_get_another_error_than_invalid_ones() {
        let compile = |memory, filter: &str| {
            let (waiting, mut cancel) = Cancel::new(Duration::from_secs(30), memory);
            let parse = |texts: &[String]| Filter::parse(texts).map_err(Error::invalid_argument);
            let compiled = cancel.compile(&[filter.to_owned()], parse).map(drop);
            (compiled, waiting.lacks_memory())
        };
        let large = r#"name~="\\pL{30}""#;
        let many = vec!["name==a"; 1000].join(",");
        for filter in [large, &many] {
            let (compiled, lacks_memory) = compile(100_000, filter);
            assert!(matches!(compiled, Err(Error::ResourceExhausted(_))) && lacks_memory);
            assert_eq!(compile(usize::MAX, filter), (Ok(()), false));
        }
        for wrong in ["name~=", "name~=\"(\""] {
            assert!(!compile(100_000, wrong).1, "{wrong}");
        }
    }
}
