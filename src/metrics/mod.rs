//! Counters and histograms of the running daemon.
//!
//! - [`calls`]: calls and connections of clients
//! - [`clients`]: calls by the program that made them
//! - `collect`: what a collector handed on
//! - [`names`]: the services and methods that may be values of labels
//! - `ship`: what a shipper reported
//!
//! Each part of the program owns its metrics and knows no registry; [`crate::daemon::metrics`] registers
//! all of them. A client cannot choose a method's label value: unknown names become `other`. `docs/metrics.md`
//! lists the metrics.

pub(crate) mod calls;
pub(crate) mod clients;
#[cfg(feature = "fleet")]
pub(crate) mod collect;
pub(crate) mod names;
#[cfg(feature = "fleet")]
pub(crate) mod ship;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets in seconds, from a lookup in memory to a hanging disk.
const BUCKET_SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
];

/// Returns a histogram of durations in seconds.
fn seconds() -> Histogram {
    Histogram::new(BUCKET_SECONDS)
}

/// Commits of the store. Clones share the same values.
#[derive(Debug, Clone)]
pub struct Commits {
    /// Number of jobs in one commit.
    pub(crate) jobs: Histogram,
    /// Duration of a commit in seconds: usually writing to the journal and syncing it.
    pub seconds: Histogram,
    /// Commits that failed.
    pub failed: Counter,
    /// Duration of a checkpoint in seconds: writing the committed changes to LMDB's file.
    pub(crate) checkpoints: Histogram,
    /// Checkpoints that failed.
    pub(crate) failed_checkpoints: Counter,
}

impl Default for Commits {
    fn default() -> Self {
        Self {
            jobs: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            seconds: seconds(),
            failed: Counter::default(),
            checkpoints: seconds(),
            failed_checkpoints: Counter::default(),
        }
    }
}

impl Commits {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("commit_jobs", "Jobs that shared a commit", self.jobs.clone());
        registry.register(
            "commit_seconds",
            "Time of a commit: writing what changed and syncing it",
            self.seconds.clone(),
        );
        registry.register("commit_failures", "Commits that failed", self.failed.clone());
        registry.register(
            "checkpoint_seconds",
            "Time of a checkpoint: writing the committed changes to LMDB's file",
            self.checkpoints.clone(),
        );
        registry.register(
            "checkpoint_failures",
            "Checkpoints that failed",
            self.failed_checkpoints.clone(),
        );
    }
}

/// Labels of a resync.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResyncLabels {
    result: &'static str,
}

/// The source of the answer to a read, in proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// containerd's files.
    Files,
    /// containerd itself.
    Containerd,
    /// The copy in the store, as containerd could not be reached.
    Copy,
}

/// Labels of a read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    source: &'static str,
}

impl From<ReadSource> for ReadLabels {
    fn from(source: ReadSource) -> Self {
        let source = match source {
            ReadSource::Files => "files",
            ReadSource::Containerd => "containerd",
            ReadSource::Copy => "copy",
        };
        Self { source }
    }
}

/// State of the upstream containerd. Clones share the same values.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// 1 while the daemon receives its events, else 0.
    pub following: Gauge,
    /// Age of an event on arrival, in seconds.
    pub(crate) lag: Histogram,
    resyncs: Family<ResyncLabels, Counter>,
    reads: Family<ReadLabels, Counter>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            following: Gauge::default(),
            lag: seconds(),
            resyncs: Family::default(),
            reads: Family::default(),
        }
    }
}

impl Upstream {
    /// Counts a read.
    pub fn read(&self, source: ReadSource) {
        self.reads.get_or_create(&source.into()).inc();
    }

    /// The number of reads so far.
    pub fn reads(&self, source: ReadSource) -> u64 {
        self.reads.get_or_create(&source.into()).get()
    }

    /// Counts a resync of a namespace: `Ok(true)` if the namespace is current, `Ok(false)` if an event
    /// may have been missed during the resync.
    pub(crate) fn resynced<E>(&self, ended: &Result<bool, E>) {
        let result = match ended {
            Ok(true) => "current",
            Ok(false) => "in_doubt",
            Err(_) => "failed",
        };
        self.resyncs.get_or_create(&ResyncLabels { result }).inc();
    }

    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_following",
            "Whether the events of containerd arrive, in proxy mode",
            self.following.clone(),
        );
        registry.register(
            "upstream_event_lag_seconds",
            "Age of an event of containerd when it arrived, in proxy mode",
            self.lag.clone(),
        );
        registry.register(
            "upstream_resyncs",
            "Namespaces whose copy was compared with containerd, in proxy mode",
            self.resyncs.clone(),
        );
        registry.register(
            "upstream_reads",
            "Reads of images, content and namespaces, by where the answer came from",
            self.reads.clone(),
        );
    }
}
