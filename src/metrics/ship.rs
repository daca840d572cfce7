//! Counters of `lmdb-images ship`. It is a process of its own, so it has a registry of its own.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::seconds;

/// The counters of `ship`. Clones share the values.
#[derive(Debug, Clone)]
pub(crate) struct Shipped {
    /// Duration of a report in seconds, with its answer.
    pub(crate) seconds: Histogram,
    /// Reports without an answer.
    pub(crate) failures: Counter,
    /// Changes that were reported.
    pub(crate) changes: Counter,
    /// Snapshots that were sent.
    pub(crate) snapshots: Counter,
    /// The newest change that was taken.
    pub(crate) seq: Gauge,
    /// The newest change of the log.
    pub(crate) last: Gauge,
    /// When the last report was answered, as a Unix time in seconds.
    pub(crate) answered: Gauge,
}

impl Default for Shipped {
    fn default() -> Self {
        Self {
            seconds: seconds(),
            failures: Counter::default(),
            changes: Counter::default(),
            snapshots: Counter::default(),
            seq: Gauge::default(),
            last: Gauge::default(),
            answered: Gauge::default(),
        }
    }
}

impl Shipped {
    /// Notes an answer: everything up to change `seq` is taken.
    pub(crate) fn reported(&self, seq: u64, unix_seconds: i64) {
        self.seq.set(i64::try_from(seq).unwrap_or(i64::MAX));
        self.answered.set(unix_seconds);
    }

    /// The values in the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut registry = Registry::with_prefix("lmdb_images_ship");
        registry.register(
            "report_seconds",
            "Time of a report with its answer",
            self.seconds.clone(),
        );
        registry.register("failures", "Reports without an answer", self.failures.clone());
        registry.register("changes", "Changes that were reported", self.changes.clone());
        registry.register("snapshots", "Snapshots that were sent", self.snapshots.clone());
        registry.register("seq", "The newest change that was taken", self.seq.clone());
        registry.register("log_last", "The newest change of the log", self.last.clone());
        let answered = "When the last report was answered, as a Unix time";
        registry.register("answered_timestamp_seconds", answered, self.answered.clone());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
