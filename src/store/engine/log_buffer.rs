//! Keeps the changes of images that the jobs of a batch make, until they are entries of the log.
//!
//! A job's entries get their numbers when it has ended well: so a job that fails leaves no gap, and the
//! entries of a batch know the last of them.

use crate::clock;
use crate::model::Result;
use crate::store::changelog::LogHead;
use crate::store::changelog::cause::{Cause, Origin};
use crate::store::changelog::entry::{self, Changed};
use crate::store::engine::version::KnownLog;
use crate::store::read::changelog;
use crate::store::read::view::View;
use crate::store::schema::value;

/// The changes of a batch that are not yet entries of the log.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    /// Where the log ends, with the entries of the jobs that have ended.
    head: KnownLog,
    /// The cause of the changes of the running job.
    cause: Cause,
    is_skipped: bool,
    bodies: Vec<Vec<u8>>,
}

/// A state to roll back to.
#[derive(Debug)]
pub(crate) struct LogSavepoint {
    head: KnownLog,
    bodies: usize,
}

impl LogBuffer {
    pub(crate) fn new(head: KnownLog) -> Self {
        Self { head, ..Self::default() }
    }

    pub(crate) fn begin_job(&mut self) {
        (self.cause, self.is_skipped) = (Cause::default(), false);
        self.bodies.clear();
    }

    pub(crate) fn savepoint(&self) -> LogSavepoint {
        LogSavepoint { head: self.head, bodies: self.bodies.len() }
    }

    pub(crate) fn rollback_to(&mut self, savepoint: LogSavepoint) {
        self.head = savepoint.head;
        self.bodies.truncate(savepoint.bodies);
    }

    pub(crate) fn set_cause(&mut self, cause: Cause) {
        self.cause = cause;
    }

    pub(crate) fn skip(&mut self) {
        self.is_skipped = true;
    }

    /// The end of the log, if it is known.
    pub(crate) fn head(&self) -> Option<LogHead> {
        self.head.flatten()
    }

    /// Adds a change of the job that runs. `view` is the state before it.
    pub(crate) fn add(&mut self, view: &View<'_>, changed: &Changed<'_>) -> Result<()> {
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
    pub(crate) fn last_seq(&self) -> u64 {
        let head = self.head.flatten().filter(|_| !self.bodies.is_empty());
        head.map_or(0, |head| head.last.saturating_add(self.bodies.len() as u64))
    }

    /// The keys and values of the entries of the job that has ended.
    pub(crate) fn end_job(&mut self) -> Result<Vec<([u8; 8], Vec<u8>)>> {
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
            entries.push((key, value::encode(&key, &entry)));
            (head.last, head.chain) = (seq, chain);
        }
        self.head = Some(Some(head));
        Ok(entries)
    }
}
