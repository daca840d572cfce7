//! Looks after the readers of the store, in all processes: takes back the places of those that are
//! gone, and says in the log who forgot to let a snapshot go, since the file grows meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Result;
use crate::store::Store;
use crate::store::lmdb::reader_table::{HeldSnapshot, command_line};

/// How often it looks.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(10);

/// From then on a snapshot counts as forgotten. To list a million images takes seconds.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Looks from time to time, until it is dropped.
pub async fn watch(store: Store, watch: Arc<Mutex<ReaderMonitor>>) {
    loop {
        // Both take microseconds: there is nothing to wait for but the table's lock.
        match look(&store) {
            Ok((held, last)) => {
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                watch.observe_and_log(&held, last);
            }
            Err(e) => log::error!("looking after readers: {e}"),
        }
        tokio::time::sleep(OBSERVE_INTERVAL).await;
    }
}

fn look(store: &Store) -> Result<(Vec<HeldSnapshot>, u64)> {
    let freed = store.free_dead_readers()?;
    if freed > 0 {
        log::info!("took back the places of {freed} readers whose process is gone");
    }
    Ok((store.readers()?, store.last_commit()?))
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct ReaderMonitor {
    /// By process, thread and snapshot.
    behind: HashMap<(u32, u64, u64), Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    told: bool,
}

impl ReaderMonitor {
    /// Notes who holds what while the store is at commit `last`, and logs who holds it for long. Gives
    /// the time since the oldest snapshot was first seen behind; none is zero.
    pub fn observe_and_log(&mut self, held: &[HeldSnapshot], last: u64) -> Duration {
        let now = Instant::now();
        for line in self.look(held, last, now) {
            log::warn!("{line}");
        }
        let ages = self.behind.values().map(|seen| now.saturating_duration_since(seen.since));
        ages.max().unwrap_or_default()
    }

    /// Notes who holds what while the store is at commit `last`; gives the lines for the log.
    fn look(&mut self, held: &[HeldSnapshot], last: u64, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let before = std::mem::take(&mut self.behind);
        // A snapshot of the last commit keeps nothing, and may be another one each time.
        for reader in held.iter().filter(|reader| reader.snapshot < last) {
            let key = (reader.process, reader.thread, reader.snapshot);
            let mut seen = before.get(&key).copied().unwrap_or(Seen { since: now, told: false });
            let age = now.saturating_duration_since(seen.since);
            if age >= STALE_AFTER && !seen.told {
                seen.told = true;
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
    let who = if process == std::process::id() { "this daemon" } else { "process" };
    format!(
        "{who} {process}{command} has held a snapshot for {} s, {} commits behind: what was freed since \
         is not used again and the file grows; let that process finish, or end it",
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
    fn who_forgets_a_snapshot_is_told_of_once() {
        let (mut watch, start) = (ReaderMonitor::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.look(&[held(0, 7)], 8, at(0)).is_empty());
        assert!(watch.look(&[held(0, 7)], 9, at(29)).is_empty());
        let told = watch.look(&[held(0, 7), held(0, 8)], 10, at(30));
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("process 0 has held a snapshot for 30 s, 3 commits behind"));
        assert!(watch.look(&[held(0, 7)], 10, at(31)).is_empty());
        assert!(watch.look(&[], 10, at(40)).is_empty());
        assert!(watch.look(&[held(0, 7)], 10, at(41)).is_empty());
        assert_eq!(watch.look(&[held(0, 7)], 10, at(71)).len(), 1);
    }

    #[test]
    fn who_reads_the_last_commit_keeps_nothing() {
        let (mut watch, start) = (ReaderMonitor::default(), Instant::now());
        for seconds in [0, 60, 120] {
            let now = start + Duration::from_secs(seconds);
            assert!(watch.look(&[held(1, 7)], 7, now).is_empty());
        }
    }
}
