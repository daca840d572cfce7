//! `lmdb-images ship`: reads the log of the node's daemon and reports it, until it is stopped.
//!
//! It begins with a hello. The answer names the change from which the server wants the changes, or asks for a snapshot.
//! Then the shipper waits at the daemon for changes and reports them as they come, some hundred at a time when there are
//! many. It sends a hello again every heartbeat interval, and after any failure. It keeps no state.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::catalog::{Change, HeadResponse};
use crate::clock;
use crate::fleet::backoff::{Backoff, jittered};
use crate::fleet::catalog::{Catalog, CatalogFailure};
use crate::fleet::report::{
    Body, ChangeRow, Head, Hello, LogPosition, MAX_REPORT_BYTES, NodeReport, Want, postgres_time,
};
use crate::fleet::shipment::{Destination, Shipment};
use crate::fleet::snapshot;
use crate::log_throttle::throttled_log;
use crate::metrics::ship::Shipped;
use crate::model::Result;

/// A connection is closed after this time without a report: each open connection is a process of the server, and
/// there may be ten thousand nodes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time to wait at the daemon for a change.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// The shortest time between two snapshots after a divergence. If two machines report as one node, each of them sends a
/// snapshot after a report of the other.
const DIVERGED_INTERVAL: Duration = Duration::from_secs(60);

/// The node that reports.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The name of the machine.
    pub(crate) machine: String,
    /// The boot of its kernel.
    pub(crate) boot: Option<String>,
}

/// Reads the log of one daemon and sends it.
#[derive(Debug)]
pub(crate) struct Shipper {
    catalog: Catalog,
    shipment: Shipment,
    identity: Identity,
    heartbeat: Duration,
    backoff: Backoff,
    last_divergence: Option<Instant>,
    state: watch::Sender<ReportingState>,
}

/// The state of a shipper.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReportingState {
    /// The last report was answered.
    pub(crate) is_reporting: bool,
    /// A sentence for a person.
    pub(crate) text: String,
}

/// The next report.
enum Next {
    Hello,
    Snapshot(String),
}

impl Shipper {
    /// A shipper that reports what `catalog` has. `state` shows what it is doing.
    pub(crate) fn new(
        catalog: Catalog,
        destination: Destination,
        identity: Identity,
        heartbeat: Duration,
        shipped: Shipped,
        state: watch::Sender<ReportingState>,
    ) -> Self {
        Self {
            catalog,
            shipment: Shipment::new(destination, shipped),
            identity,
            heartbeat,
            backoff: Backoff::default(),
            last_divergence: None,
            state,
        }
    }

    /// Reports until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let Err(error) = self.session().await else { continue };
            self.shipment.close();
            let pause = self.backoff.pause();
            throttled_log!(Warn, "{error}; again in {:.1} s", pause.as_secs_f64());
            self.set_state(false, error.to_string());
            tokio::time::sleep(pause).await;
        }
    }

    /// Reports from one hello to the next.
    async fn session(&mut self) -> Result<()> {
        let head = self.catalog.head().await?;
        self.shipment.shipped().last.set(i64::try_from(head.last).unwrap_or(i64::MAX));
        let hello = NodeReport::new(&head.epoch, Body::Hello(self.hello(&head)));
        let answer = self.shipment.send(&hello).await?;
        let mut next = match answer.want {
            Want::Snapshot => Next::Snapshot(answer.why.unwrap_or_default()),
            Want::Changes | Want::Page => {
                let after = LogPosition { seq: answer.seq, chain: None };
                self.follow(&head.epoch, head.first, after).await?
            }
        };
        while let Next::Snapshot(why) = next {
            let (log, after) = self.snapshot(&why).await?;
            next = self.follow(&log, 0, after).await?;
        }
        Ok(())
    }

    fn hello(&self, head: &HeadResponse) -> Hello {
        Hello {
            store: head.store.clone(),
            head: Head {
                first: head.first,
                last: head.last,
                chain: format!("{:016x}", head.chain),
            },
            machine: self.identity.machine.clone(),
            boot: self.identity.boot.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            now: postgres_time(clock::now()),
        }
    }

    /// Sends a snapshot, and returns the log and the position after which the changes follow.
    async fn snapshot(&mut self, why: &str) -> Result<(String, LogPosition)> {
        if ["diverged", "rollback"].contains(&why) {
            log::warn!(
                "the log of this node is not the one that was reported before ({why}): its store was put \
                 back to an earlier state, or another machine reports as this node"
            );
            if let Some(last) = self.last_divergence {
                tokio::time::sleep_until(last + DIVERGED_INTERVAL).await;
            }
            self.last_divergence = Some(Instant::now());
        }
        let sent = snapshot::send(&self.catalog, &mut self.shipment, why).await?;
        self.shipment.shipped().snapshots.inc();
        log::info!("sent a snapshot of {} images ({why}), at change {}", sent.count, sent.at.seq);
        Ok((sent.log, sent.at))
    }

    /// Reports changes until the next heartbeat. `first` is the oldest change that the log keeps.
    async fn follow(&mut self, log: &str, first: u64, mut after: LogPosition) -> Result<Next> {
        let due = Instant::now() + jittered(self.heartbeat);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Hello);
            }
            // The report names the chain of the previous change. If that chain is unknown, the previous change is
            // read too.
            let reads_after = after.chain.is_none() && after.seq > 0 && after.seq >= first;
            let from = after.seq.saturating_add(u64::from(!reads_after));
            let mut wait =
                left.min(if self.shipment.can_close_idle() { IDLE_TIMEOUT } else { MAX_WAIT });
            if reads_after {
                wait = Duration::ZERO;
            }
            let found = tokio::select! {
                found = self.catalog.changes(log, from, wait) => found,
                () = self.shipment.correction() => {
                    tokio::time::sleep(self.backoff.pause()).await;
                    return Ok(Next::Hello);
                }
            };
            let found = match found {
                Ok(found) => found,
                Err(CatalogFailure::LogChanged) => {
                    // The answer to the next hello says what the server wants now. The pause limits how often
                    // this happens.
                    tokio::time::sleep(self.backoff.pause()).await;
                    return Ok(Next::Hello);
                }
                Err(CatalogFailure::Other(error)) => return Err(error),
            };
            self.shipment.shipped().last.set(i64::try_from(found.last).unwrap_or(i64::MAX));
            let mut changes = found.changes.iter();
            if reads_after {
                let chain = changes.next().filter(|change| change.seq == after.seq);
                after.chain = chain.map(|change| format!("{:016x}", change.chain));
            }
            let (rows, last) = rows_of(changes);
            let Some(last) = last else {
                if !reads_after {
                    self.shipment.close_idle();
                }
                self.set_state(true, format!("reported up to change {}", after.seq));
                continue;
            };
            let to = LogPosition::new(last.seq, last.chain);
            let count = u64::try_from(rows.len()).unwrap_or_default();
            let body = Body::Changes { after: after.clone(), to: to.clone(), changes: rows };
            let answer = self.shipment.send(&NodeReport::new(log, body)).await?;
            match (answer.ok, answer.want) {
                (true, _) => {
                    self.backoff.reset();
                    self.shipment.shipped().changes.inc_by(count);
                    after = to;
                    self.set_state(true, format!("reported up to change {}", after.seq));
                }
                (false, Want::Snapshot) => {
                    return Ok(Next::Snapshot(answer.why.unwrap_or_default()));
                }
                (false, _) => return Ok(Next::Hello),
            }
        }
    }

    fn set_state(&self, is_reporting: bool, text: String) {
        self.state.send_replace(ReportingState { is_reporting, text });
    }
}

/// The rows of the changes that fit into a report, and the last of them.
fn rows_of<'a>(changes: impl Iterator<Item = &'a Change>) -> (Vec<ChangeRow>, Option<&'a Change>) {
    let (mut rows, mut last, mut bytes) = (Vec::new(), None, 0_usize);
    for change in changes {
        let row = ChangeRow::from(change);
        bytes = bytes.saturating_add(row.json_bytes());
        if bytes > MAX_REPORT_BYTES && last.is_some() {
            break;
        }
        rows.push(row);
        last = Some(change);
    }
    (rows, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_changes_that_fit_and_at_least_one() {
        let change = |seq, bytes| Change { seq, name: "n".repeat(bytes), ..Change::default() };
        let changes = [change(1, MAX_REPORT_BYTES), change(2, 1), change(3, 1)];
        let (rows, last) = rows_of(changes.iter());
        assert_eq!((rows.len(), last.unwrap().seq), (1, 1));
        let (rows, last) = rows_of(changes[1..].iter());
        assert_eq!((rows.len(), last.unwrap().seq), (2, 3));
        assert!(rows_of([].iter()).1.is_none());
    }
}
