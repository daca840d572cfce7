//! What is counted while the daemon works, for whoever watches it.
//!
//! - [`calls`]: calls and connections of clients; [`names`]: how their services are called
//!
//! Each part of the program holds the figures that it counts and knows no registry; the daemon
//! puts them together (`daemon::metrics`). A value of a label is never a client's word: what is not
//! known is `other`. `docs/metrics.md` lists all.

pub mod calls;
pub mod names;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds, from a look-up in memory to a disk that hangs.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
];

/// A histogram of times.
fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// Commits of the store. Clones are the same.
#[derive(Debug, Clone)]
pub struct Commits {
    /// So many jobs shared each.
    pub jobs: Histogram,
    /// How long each took, in seconds: writing it to the journal, as a rule, and syncing that.
    pub seconds: Histogram,
    /// Those that failed.
    pub failed: Counter,
    /// How long each checkpoint took, in seconds: writing what was committed to LMDB's file.
    pub checkpoints: Histogram,
    /// Checkpoints that failed.
    pub failed_checkpoints: Counter,
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
            "Time of a checkpoint: writing what was committed to LMDB's file",
            self.checkpoints.clone(),
        );
        registry.register(
            "checkpoint_failures",
            "Checkpoints that failed",
            self.failed_checkpoints.clone(),
        );
    }
}

/// How a resync ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    result: &'static str,
}

/// What is known of the containerd behind. Clones are the same.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// 1 while its events come in.
    pub following: Gauge,
    /// How long each event was on its way, in seconds.
    pub lag: Histogram,
    resyncs: Family<Ended, Counter>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self { following: Gauge::default(), lag: seconds(), resyncs: Family::default() }
    }
}

impl Upstream {
    /// A namespace was read again. It is current now, or was put in doubt meanwhile, or it failed.
    pub fn resynced<E>(&self, ended: &Result<bool, E>) {
        let result = match ended {
            Ok(true) => "current",
            Ok(false) => "in_doubt",
            Err(_) => "failed",
        };
        self.resyncs.get_or_create(&Ended { result }).inc();
    }

    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_following",
            "Whether events of the containerd behind come in",
            self.following.clone(),
        );
        registry.register(
            "upstream_event_lag_seconds",
            "Age of an event of the containerd behind when it arrived",
            self.lag.clone(),
        );
        registry.register(
            "upstream_resyncs",
            "Namespaces that were read again from the containerd behind",
            self.resyncs.clone(),
        );
    }
}
