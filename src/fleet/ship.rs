//! `lmdb-images ship`: reads the log of the node's daemon and reports it, until it is stopped.
//!
//! It begins with "hello": the answer says from which change on, or that a snapshot is wanted. Then it waits
//! at the daemon for changes and reports them as they come, some hundred at a time when there are many. It
//! says hello again every heartbeat interval, and after any failure. It keeps nothing itself.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::catalog::HeadResponse;
use crate::clock;
use crate::fleet::backoff::{Backoff, about};
use crate::fleet::catalog::{Catalog, Failure};
use crate::fleet::report::{ChangeRow, Head, Hello, Place, Report, Want, What, time};
use crate::fleet::shipment::Shipment;
use crate::fleet::snapshot;
use crate::fleet::target::Postgres;
use crate::log_throttle::throttled_log;
use crate::metrics::ship::Shipped;
use crate::model::Result;

/// A connection that had nothing to report for this long is closed: ten thousand nodes must not keep as many
/// processes of the server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time to wait at the daemon for a change.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// Where two machines report as one node, each sends a snapshot after the other. At most one in this time.
const DIVERGED_INTERVAL: Duration = Duration::from_secs(60);

/// Who reports.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name of the machine.
    pub machine: String,
    /// The boot of its kernel.
    pub boot: Option<String>,
}

/// A shipper.
#[derive(Debug)]
pub struct Shipper {
    catalog: Catalog,
    to: Shipment,
    identity: Identity,
    heartbeat: Duration,
    backoff: Backoff,
    diverged: Option<Instant>,
    state: watch::Sender<State>,
}

/// What a shipper is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The last report was answered.
    pub is_reporting: bool,
    /// A sentence for a person.
    pub text: String,
}

/// What to do next.
enum Next {
    Hello,
    Snapshot(String),
}

impl Shipper {
    /// A shipper that reports what `catalog` has. `state` shows what it is doing.
    pub fn new(
        catalog: Catalog,
        to: Postgres,
        identity: Identity,
        heartbeat: Duration,
        shipped: Shipped,
        state: watch::Sender<State>,
    ) -> Self {
        Self {
            catalog,
            to: Shipment::new(to, shipped),
            identity,
            heartbeat,
            backoff: Backoff::default(),
            diverged: None,
            state,
        }
    }

    /// Reports for ever.
    pub async fn run(mut self) {
        loop {
            let Err(error) = self.session().await else { continue };
            self.to.rest();
            let pause = self.backoff.pause();
            throttled_log!(Warn, "{error}; again in {:.1} s", pause.as_secs_f64());
            self.say(false, error.to_string());
            tokio::time::sleep(pause).await;
        }
    }

    /// From one hello to the next.
    async fn session(&mut self) -> Result<()> {
        let head = self.catalog.head().await?;
        self.to.shipped().last.set(i64::try_from(head.last).unwrap_or(i64::MAX));
        let hello = Report::new(&head.epoch, What::Hello(self.hello(&head)));
        let answer = self.to.send(&hello).await?;
        let mut next = match answer.want {
            Want::Snapshot => Next::Snapshot(answer.why.unwrap_or_default()),
            Want::Changes | Want::Page => {
                let after = Place { seq: answer.seq, chain: None };
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
            now: time(clock::now()),
        }
    }

    /// Sends a snapshot, and returns the log and the place from which changes follow.
    async fn snapshot(&mut self, why: &str) -> Result<(String, Place)> {
        if ["diverged", "rollback"].contains(&why) {
            log::warn!(
                "the log of this node is not the one that was reported before ({why}): its store was put \
                 back to an earlier state, or another machine reports as this node"
            );
            if let Some(last) = self.diverged {
                tokio::time::sleep_until(last + DIVERGED_INTERVAL).await;
            }
            self.diverged = Some(Instant::now());
        }
        let sent = snapshot::send(&self.catalog, &mut self.to, why).await?;
        self.to.shipped().snapshots.inc();
        log::info!("sent a snapshot of {} images ({why}), at change {}", sent.count, sent.at.seq);
        Ok((sent.log, sent.at))
    }

    /// Reports changes until the next heartbeat. `first` is the oldest change that the log keeps.
    async fn follow(&mut self, log: &str, first: u64, mut after: Place) -> Result<Next> {
        let due = Instant::now() + about(self.heartbeat);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Hello);
            }
            // The change before them is read too, for its chain, unless that is known.
            let reads_after = after.chain.is_none() && after.seq > 0 && after.seq >= first;
            let from = after.seq.saturating_add(u64::from(!reads_after));
            let mut wait = left.min(if self.to.is_resting() { MAX_WAIT } else { IDLE_TIMEOUT });
            if reads_after {
                wait = Duration::ZERO;
            }
            let found = match self.catalog.changes(log, from, wait).await {
                Ok(found) => found,
                Err(Failure::Moved) => {
                    // Hello tells what is wanted now. Not at once again and again.
                    tokio::time::sleep(self.backoff.pause()).await;
                    return Ok(Next::Hello);
                }
                Err(Failure::Other(error)) => return Err(error),
            };
            self.to.shipped().last.set(i64::try_from(found.last).unwrap_or(i64::MAX));
            let mut changes = found.changes.iter();
            if reads_after {
                let chain = changes.next().filter(|change| change.seq == after.seq);
                after.chain = chain.map(|change| format!("{:016x}", change.chain));
            }
            let rows: Vec<ChangeRow> = changes.map(ChangeRow::from).collect();
            let Some(last) = found.changes.last().filter(|_| !rows.is_empty()) else {
                if !reads_after {
                    self.to.rest();
                }
                self.say(true, format!("reported up to change {}", after.seq));
                continue;
            };
            let to = Place::new(last.seq, last.chain);
            let count = u64::try_from(rows.len()).unwrap_or_default();
            let what = What::Changes { after: after.clone(), to: to.clone(), changes: rows };
            let answer = self.to.send(&Report::new(log, what)).await?;
            match (answer.ok, answer.want) {
                (true, _) => {
                    self.backoff.reset();
                    self.to.shipped().changes.inc_by(count);
                    after = to;
                    self.say(true, format!("reported up to change {}", after.seq));
                }
                (false, Want::Snapshot) => {
                    return Ok(Next::Snapshot(answer.why.unwrap_or_default()));
                }
                (false, _) => return Ok(Next::Hello),
            }
        }
    }

    fn say(&self, is_reporting: bool, text: String) {
        self.state.send_replace(State { is_reporting, text });
    }
}
