//! What a read of a record may show, by the operations that its client has made.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The number of operations on a record in a cycle.
pub const CYCLE: u64 = 4;
/// The remainder of the operation that deletes it, the last of a cycle.
pub const DELETED: u64 = CYCLE - 1;

/// One record, with the number of the last operation that its client began, and of the last one that was
/// answered.
#[derive(Debug)]
pub struct Expectation {
    pub namespace: String,
    /// Nothing for a namespace itself.
    pub image: Option<String>,
    pub last_begun: AtomicU64,
    pub last_answered: AtomicU64,
}

impl Expectation {
    pub fn new(namespace: &str, image: Option<String>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            image,
            last_begun: AtomicU64::new(DELETED),
            last_answered: AtomicU64::new(DELETED),
        }
    }

    /// Whether a read may have shown this: the number in the record, or that there is none.
    pub fn allows(&self, shown: Option<u64>, answered_before: u64) -> Verdict {
        let begun_after = self.last_begun.load(SeqCst);
        match shown {
            Some(number) if number % CYCLE == DELETED || number > begun_after => Verdict::Wrong,
            Some(number) if number < answered_before => Verdict::Old,
            Some(_) => Verdict::Right,
            None if (answered_before..=begun_after).any(|n| n % CYCLE == DELETED) => Verdict::Right,
            None => Verdict::Old,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// An answer came before the read began, and the read does not show its operation.
    Old,
    /// No operation can explain the read.
    Wrong,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub lookups: AtomicU64,
    pub walks: AtomicU64,
    pub retried: AtomicU64,
    pub busy: AtomicU64,
    pub wrong: AtomicU64,
    pub old: AtomicU64,
    pub after_answer: AtomicU64,
    pub changes: AtomicU64,
}

impl Counts {
    pub fn add(&self, which: &AtomicU64) {
        which.fetch_add(1, SeqCst);
    }

    pub fn verdict(&self, verdict: Verdict, what: impl FnOnce() -> String) {
        let which = match verdict {
            Verdict::Right => return,
            Verdict::Old => &self.old,
            Verdict::Wrong => &self.wrong,
        };
        if which.fetch_add(1, SeqCst) < 5 {
            eprintln!("{verdict:?}: {}", what());
        }
    }
}
