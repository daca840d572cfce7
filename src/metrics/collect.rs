//! Counters of `lmdb-images fleet collect`. It is a process of its own, so it has a registry of its own.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::seconds;

/// The counters of `fleet collect`. Clones share the values.
#[derive(Debug, Clone)]
pub(crate) struct Collected {
    /// Duration of handing on a report in seconds, with its answer.
    pub(crate) seconds: Histogram,
    /// Reports that the database did not answer; they are handed on again.
    pub(crate) failures: Counter,
    /// Reports that the database will never take.
    pub(crate) refused: Counter,
    /// Answers that were sent back to nodes.
    pub(crate) sent_back: Counter,
    /// When the last report was answered, as a Unix time in seconds.
    pub(crate) answered: Gauge,
}

impl Default for Collected {
    fn default() -> Self {
        Self {
            seconds: seconds(),
            failures: Counter::default(),
            refused: Counter::default(),
            sent_back: Counter::default(),
            answered: Gauge::default(),
        }
    }
}

impl Collected {
    /// The values in the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut registry = Registry::with_prefix("lmdb_images_collect");
        let taken = "Time of handing on a report, with its answer";
        registry.register("report_seconds", taken, self.seconds.clone());
        registry.register("failures", "Reports without an answer", self.failures.clone());
        registry.register("refused", "Reports that are malformed", self.refused.clone());
        registry.register("sent_back", "Answers sent back to nodes", self.sent_back.clone());
        let answered = "When the last report was answered, as a Unix time";
        registry.register("answered_timestamp_seconds", answered, self.answered.clone());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
