//! Monitors the readers of the store in all processes: frees the slots of dead processes, and logs a
//! process that holds an old snapshot for long, because the data file grows meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::Result;
use crate::store::Store;
use crate::store::lmdb::reader_table::{HeldSnapshot, command_line};

/// Interval between two observations.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(10);

/// Age from which a snapshot is logged. Listing a million images takes seconds.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Observes the readers periodically, until the task is aborted.
pub(crate) async fn run(store: Store, monitor: Arc<Mutex<ReaderMonitor>>) {
    loop {
        // Blocks an async thread for microseconds only: it waits for no more than the table's lock.
        match read_readers(&store) {
            Ok((snapshots, last)) => {
                let mut monitor = monitor.lock();
                monitor.observe_and_log(&snapshots, last);
            }
            Err(e) => log::error!("reading the readers of the store: {e}"),
        }
        tokio::time::sleep(OBSERVE_INTERVAL).await;
    }
}

fn read_readers(store: &Store) -> Result<(Vec<HeldSnapshot>, u64)> {
    let freed = store.free_dead_readers()?;
    if freed > 0 {
        log::info!("freed the slots of {freed} readers whose process is gone");
    }
    Ok((store.readers()?, store.last_commit()?))
}

/// Snapshots observed so far.
#[derive(Debug, Default)]
pub(crate) struct ReaderMonitor {
    /// Snapshots behind the last commit.
    behind: HashMap<SnapshotKey, Observation>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SnapshotKey {
    process: u32,
    thread: u64,
    snapshot: u64,
}

#[derive(Debug, Clone, Copy)]
struct Observation {
    since: Instant,
    logged: bool,
}

impl ReaderMonitor {
    /// Records the held snapshots while the store is at commit `last`, and logs each that is held for
    /// long. Returns the time since the oldest snapshot was first seen behind, zero if there is none.
    pub(crate) fn observe_and_log(&mut self, held: &[HeldSnapshot], last: u64) -> Duration {
        let now = Instant::now();
        for line in self.observe(held, last, now) {
            log::warn!("{line}");
        }
        let ages = self.behind.values().map(|seen| now.saturating_duration_since(seen.since));
        ages.max().unwrap_or_default()
    }

    /// Records the held snapshots while the store is at commit `last`. Returns the lines for the log.
    fn observe(&mut self, held: &[HeldSnapshot], last: u64, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let before = std::mem::take(&mut self.behind);
        // A snapshot of the last commit keeps no page from being reused.
        for reader in held.iter().filter(|reader| reader.snapshot < last) {
            let HeldSnapshot { process, thread, snapshot, .. } = *reader;
            let key = SnapshotKey { process, thread, snapshot };
            let first = Observation { since: now, logged: false };
            let mut seen = before.get(&key).copied().unwrap_or(first);
            let age = now.saturating_duration_since(seen.since);
            if age >= STALE_AFTER && !seen.logged {
                seen.logged = true;
                lines.push(stale_reader_sentence(reader, last, age));
            }
            self.behind.insert(key, seen);
        }
        lines
    }
}

fn stale_reader_sentence(reader: &HeldSnapshot, last: u64, age: Duration) -> String {
    let process = reader.process;
    let command = command_line(process).map(|c| format!(" ({c})")).unwrap_or_default();
    let noun = if process == std::process::id() { "this daemon" } else { "process" };
    format!(
        "{noun} {process}{command} has held a snapshot for {} s, {} commits behind: pages freed since \
         then are not reused and the file grows; let that process finish, or end it",
        age.as_secs(),
        last.saturating_sub(reader.snapshot)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(process: u32, snapshot: u64) -> HeldSnapshot {
        HeldSnapshot { process, thread: 1, snapshot, alive: true }
    }

    #[test]
    fn a_snapshot_that_is_open_for_long_is_logged_once() {
        let (mut monitor, start) = (ReaderMonitor::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(monitor.observe(&[held(0, 7)], 8, at(0)).is_empty());
        assert!(monitor.observe(&[held(0, 7)], 9, at(29)).is_empty());
        let lines = monitor.observe(&[held(0, 7), held(0, 8)], 10, at(30));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("process 0 has held a snapshot for 30 s, 3 commits behind"));
        assert!(monitor.observe(&[held(0, 7)], 10, at(31)).is_empty());
        assert!(monitor.observe(&[], 10, at(40)).is_empty());
        assert!(monitor.observe(&[held(0, 7)], 10, at(41)).is_empty());
        assert_eq!(monitor.observe(&[held(0, 7)], 10, at(71)).len(), 1);
    }

    #[test]
    fn a_reader_of_the_last_commit_is_not_behind() {
        let (mut monitor, start) = (ReaderMonitor::default(), Instant::now());
        for seconds in [0, 60, 120] {
            let now = start + Duration::from_secs(seconds);
            assert!(monitor.observe(&[held(1, 7)], 7, now).is_empty());
        }
    }
}
