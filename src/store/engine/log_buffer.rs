//! What the jobs of a batch have changed of images, until it is entries of the log.
//!
//! A job's entries get their numbers when it has ended well: so a job that fails leaves no gap, and the
//! entries of a batch know the last of them.

use crate::clock;
use crate::model::Result;
use crate::store::changelog::LogHead;
use crate::store::changelog::cause::{Cause, Origin};
use crate::store::changelog::entry::{self, Changed};
use crate::store::read::changelog;
use crate::store::read::view::View;
use crate::store::schema::value;

/// What is to be logged.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    /// Where the log ends, with the entries of the jobs that have ended; unknown until a change asks.
    head: Option<Option<LogHead>>,
    /// Of the job that runs.
    cause: Cause,
    is_skipped: bool,
    bodies: Vec<Vec<u8>>,
}

/// A state to roll back to.
#[derive(Debug)]
pub(crate) struct LogMark {
    head: Option<Option<LogHead>>,
    bodies: usize,
}

impl LogBuffer {
    pub fn begin_job(&mut self) {
        (self.cause, self.is_skipped) = (Cause::default(), false);
        self.bodies.clear();
    }

    pub fn savepoint(&self) -> LogMark {
        LogMark { head: self.head, bodies: self.bodies.len() }
    }

    pub fn rollback_to(&mut self, mark: LogMark) {
        self.head = mark.head;
        self.bodies.truncate(mark.bodies);
    }

    pub fn set_cause(&mut self, cause: Cause) {
        self.cause = cause;
    }

    pub fn skip(&mut self) {
        self.is_skipped = true;
    }

    /// Where the log ends, if it was asked for.
    pub fn head(&self) -> Option<LogHead> {
        self.head.flatten()
    }

    /// Adds a change of the job that runs. `view` is the state before it.
    pub fn add(&mut self, view: &View<'_>, changed: &Changed<'_>) -> Result<()> {
        if self.is_skipped {
            return Ok(());
        }
        let head = match self.head {
            Some(head) => head,
            None => *self.head.insert(changelog::head(view)?),
        };
        if head.is_some() {
            self.bodies.push(changed.body(&self.cause, &clock::record_time())?);
        }
        Ok(())
    }

    /// The number that the last change of the job gets if the job ends well; 0 while the log is off.
    pub fn last_seq(&self) -> u64 {
        let head = self.head.flatten().filter(|_| !self.bodies.is_empty());
        head.map_or(0, |head| head.last.saturating_add(self.bodies.len() as u64))
    }

    /// The keys and values of the entries of the job that has ended.
    pub fn end_job(&mut self) -> Result<Vec<([u8; 8], Vec<u8>)>> {
        let bodies = std::mem::take(&mut self.bodies);
        let Some(mut head) = self.head.flatten().filter(|_| !bodies.is_empty()) else {
            return Ok(Vec::new());
        };
        let end = head.last.saturating_add(bodies.len() as u64);
        let is_one = self.cause.origin == Origin::ORIGIN_BATCH;
        let mut entries = Vec::with_capacity(bodies.len());
        for body in bodies {
            let seq = head.last.saturating_add(1);
            let commit_last = if is_one { end } else { seq };
            let (entry, chain) = entry::finish(&body, seq, commit_last, head.chain)?;
            let key = seq.to_be_bytes();
            entries.push((key, value::seal(&key, &entry)));
            (head.last, head.chain) = (seq, chain);
        }
        self.head = Some(Some(head));
        Ok(entries)
    }
}
