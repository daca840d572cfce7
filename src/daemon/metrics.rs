//! Metrics: the address that serves them and the checks of health, and the figures of the store that a scrape reads.
//!
//! [`crate::metrics`] counts events where they happen. State is read at each scrape. Only counting
//! images may take long, because LMDB keeps no count for a part of a database: the daemon counts again
//! only after a commit, and spends at most 1 % of the time on it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::sockets::{self, Access, Socket, UnlinkOnDrop};
use crate::daemon::reader_monitor::ReaderMonitor;
use crate::health::Health;
use crate::log_throttle::throttled_log;
use crate::metrics::calls::Calls;
use crate::metrics::{Upstream, names};
use crate::model::{Error, Result};
use crate::store::read::usage::Usage;
use crate::store::{Kind, Records, Snapshot, Store};
use crate::transport::metrics_http::{Listener, Pages, Verdict};

/// Number of namespaces with a label value of their own: those with the most images. All others share
/// the value `other`.
const MAX_NAMESPACE_LABELS: usize = 100;

/// Counting images takes at most 1/100 of the time.
const COUNT_DUTY_CYCLE: u32 = 100;

/// Stands before an address that is not a loopback one: metrics name namespaces, and there is no
/// password, so the settings must ask for it by this word. In Kubernetes a NetworkPolicy is the password.
const EXPOSED: &str = "exposed:";

/// Address at which metrics are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A port of a loopback address, or of any address if it was written after [`EXPOSED`].
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (exposed, address) = match text.strip_prefix(EXPOSED) {
            Some(address) => (true, address),
            None => (false, text),
        };
        match address.parse::<SocketAddr>() {
            Ok(address) if exposed || address.ip().is_loopback() => Ok(Self::Tcp(address)),
            Ok(address) => Err(format!(
                "{} is not a loopback address, and metrics name namespaces: give a unix socket (a path \
                 that begins with /), a loopback address with a port, such as 127.0.0.1:9478, or \
                 {EXPOSED}{address} if a firewall guards it",
                address.ip()
            )),
            Err(_) => Err(format!(
                "{text:?} is neither the path of a unix socket, which begins with /, nor a loopback \
                 address with a port, such as 127.0.0.1:9478 or [::1]:9478"
            )),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) if address.ip().is_loopback() => address.fmt(f),
            Self::Tcp(address) => write!(f, "{EXPOSED}{address}"),
        }
    }
}

impl Address {
    /// Listens at the address. Returns the listener, the guard that removes a unix socket when dropped,
    /// and the actual address: port 0 becomes a free port.
    ///
    /// # Errors
    /// If the address is in use, or if others may write to the folder of a unix socket.
    pub(crate) async fn listen(
        &self,
        access: Access,
    ) -> Result<(Listener, Option<UnlinkOnDrop>, Self)> {
        let failed = |e: std::io::Error| Error::Internal(format!("metrics on {self}: {e}"));
        match self {
            Self::Unix(path) => {
                sockets::check_folder_of(path)?;
                let (_, bound, listener) =
                    Socket::reserve(path.clone())?.open(access)?.into_parts();
                Ok((Listener::Unix(listener), bound, self.clone()))
            }
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let at = Self::Tcp(listener.local_addr().map_err(failed)?);
                Ok((Listener::Tcp(listener), None, at))
            }
        }
    }
}

/// The metrics of a daemon. Clones share the same values.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    health: Health,
}

impl Pages for Metrics {
    fn metrics(&self) -> impl Future<Output = Result<String>> + Send {
        self.clone().text()
    }

    async fn health(&self) -> Verdict {
        match self.health.check().await {
            Ok(()) => Ok("SERVING".into()),
            Err(e) => Err(format!("NOT_SERVING: {e}")),
        }
    }

    // Not by a call at the daemon's own socket: clients may fill it, and it may be another user's, or gone.
    async fn alive(&self) -> Verdict {
        match self.health.liveness().await {
            Ok(()) => Ok("alive".into()),
            Err(e) => Err(format!("the store does not answer: {e}")),
        }
    }
}

impl Metrics {
    /// Registers the metrics of a daemon, and those of the upstream containerd if there is one.
    pub(crate) fn new(
        store: Store,
        readers: Arc<Mutex<ReaderMonitor>>,
        calls: &Calls,
        upstream: Option<&Upstream>,
        health: Health,
    ) -> Self {
        let mut registry = Registry::with_prefix("lmdb_images");
        calls.register(&mut registry);
        store.writer().commits().register(&mut registry);
        if let Some(upstream) = upstream {
            upstream.register(&mut registry);
        }
        registry.register_collector(Box::new(StoreCollector {
            store,
            readers,
            image_counts: Mutex::default(),
        }));
        Self { registry: Arc::new(registry), health }
    }

    /// Encodes all metrics in the Prometheus text format.
    pub(crate) async fn text(self) -> Result<String> {
        let made = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &self.registry)
                .map_err(|_| Error::Internal("the metrics cannot be written as text".into()))?;
            Ok(text)
        });
        made.await.unwrap_or_else(|e| Err(Error::Internal(format!("making the text: {e}"))))
    }
}

/// Collects the state of the store at each scrape.
#[derive(Debug)]
struct StoreCollector {
    store: Store,
    readers: Arc<Mutex<ReaderMonitor>>,
    image_counts: Mutex<Option<ImageCounts>>,
}

/// Cached numbers of images by namespace.
#[derive(Debug, Clone)]
struct ImageCounts {
    images: Vec<(String, u64)>,
    /// Commit that was counted.
    commit: u64,
    /// How long counting took.
    took: Duration,
    /// When counting began.
    at: Instant,
}

impl StoreCollector {
    fn images(&self, commit: u64) -> Result<Vec<(String, u64)>> {
        let mut cached = self.image_counts.lock();
        if let Some(known) = cached.as_ref()
            && (known.commit == commit || known.at.elapsed() < known.took * COUNT_DUTY_CYCLE)
        {
            return Ok(known.images.clone());
        }
        let at = Instant::now();
        let count = |snapshot: &Snapshot<'_>| {
            let mut images = Vec::new();
            for name in snapshot.namespaces()? {
                let count = snapshot.scan(&name, Kind::Image)?.count() as u64;
                images.push((name.to_string(), count));
            }
            Ok(images)
        };
        let images = match (self.store.read(count), cached.as_ref()) {
            (Ok(images), _) => bounded(images),
            // The count was cancelled because clients wrote too much behind its snapshot.
            (Err(Error::Unavailable(_)), Some(known)) => return Ok(known.images.clone()),
            (Err(e), _) => return Err(e),
        };
        *cached = Some(ImageCounts { images: images.clone(), commit, took: at.elapsed(), at });
        Ok(images)
    }
}

/// Keeps the namespaces with the most images and sums up the others.
fn bounded(mut images: Vec<(String, u64)>) -> Vec<(String, u64)> {
    if images.len() > MAX_NAMESPACE_LABELS {
        images.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest = images.split_off(MAX_NAMESPACE_LABELS).iter().map(|(_, count)| count).sum();
        // A namespace may itself be called `other`: its images join the sum.
        match images.iter_mut().find(|(name, _)| name == names::OTHER) {
            Some((_, count)) => *count += rest,
            None => images.push((names::OTHER.into(), rest)),
        }
    }
    images
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let collect = || -> Result<_> {
            let usage = self.store.usage()?;
            let images = self.images(usage.last_commit)?;
            let aside = self.store.read(|snapshot| snapshot.count_set_aside())?;
            let log =
                self.store.read(|snapshot| Ok((snapshot.log_head()?, snapshot.log_size()?)))?;
            let snapshots = self.store.readers()?;
            let mut monitor = self.readers.lock();
            let age = monitor.observe_and_log(&snapshots, usage.last_commit);
            Ok((usage, images, aside, snapshots.len() as u64, age, log))
        };
        let (usage, images, aside, readers, age, (head, (bytes, oldest_entry))) = match collect() {
            Ok(collected) => collected,
            // The scrape still gets all counters: they help to find the fault.
            Err(e) => {
                throttled_log!(Error, "metrics without figures of the store: {e}");
                return Ok(());
            }
        };
        let (first, last) = head.map_or((0, 0), |head| (head.first, head.last));
        let log = [
            ("log_first", "Number of the oldest entry of the log of changes", first),
            ("log_last", "Number of the newest entry of the log of changes", last),
            ("log_bytes", "What the log of changes takes of the data file", bytes),
        ];
        for (name, help, value) in sizes(&usage, aside, readers).into_iter().chain(log) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let name = "log_oldest_entry_seconds";
        let gauge = ConstGauge::new(oldest_entry.unwrap_or_default().as_secs_f64());
        let help = "Age of the oldest entry of the log of changes";
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        let oldest =
            ("store_oldest_reader_seconds", "Since when the oldest snapshot was seen behind");
        let gauge = ConstGauge::new(age.as_secs_f64());
        gauge.encode(encoder.encode_descriptor(oldest.0, oldest.1, None, MetricType::Gauge)?)?;
        let help = "Images in the store";
        let mut family =
            encoder.encode_descriptor("store_images", help, None, MetricType::Gauge)?;
        for (namespace, count) in images {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("namespace", namespace)])?)?;
        }
        Ok(())
    }
}

fn sizes(usage: &Usage, aside: u64, readers: u64) -> [(&'static str, &'static str, u64); 9] {
    [
        ("store_file_bytes", "Length of the data file", usage.file_bytes),
        ("store_map_bytes", "To how much the data file can grow", usage.map_bytes),
        ("store_page_bytes", "Size of a page", usage.page_size),
        ("store_pages", "Pages of the data file", usage.pages),
        ("store_free_pages", "Pages that are free to be used again", usage.free_pages()),
        ("store_last_commit", "Number of the last commit", usage.last_commit),
        ("store_set_aside", "Images set aside, as a containerd no longer had them", aside),
        ("store_readers", "Snapshots held, in all processes", readers),
        (
            "store_readers_max",
            "Snapshots that can be held",
            crate::store::bounds::MAX_READERS.into(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_unix_sockets_are_addresses() {
        let exposed = ["exposed:0.0.0.0:9478", "exposed:[::]:1"];
        for good in
            ["/run/m.sock", "127.0.0.1:9478", "127.8.8.8:1", "[::1]:9478"].iter().chain(&exposed)
        {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), *good);
        }
        for bad in [
            "0.0.0.0:9478",
            "[::]:1",
            "192.0.2.1:80",
            "localhost:80",
            "m.sock",
            ":9478",
            "",
            "exposed:/a",
        ] {
            let failed = bad.parse::<Address>().unwrap_err();
            assert!(failed.contains("such as 127.0.0.1:9478"), "{failed}");
        }
    }

    #[test]
    fn namespaces_are_bounded_and_none_is_lost() {
        let many = (0..1000).map(|n| (n.to_string(), n)).collect();
        let bounded = bounded(many);
        assert_eq!(bounded.len(), MAX_NAMESPACE_LABELS + 1);
        assert_eq!(bounded.iter().map(|(_, count)| count).sum::<u64>(), 999 * 1000 / 2);
    }
}
