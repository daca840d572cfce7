//! Metrics: where they are given out, and what of the store is read for a scrape.
//!
//! What happens is counted where it happens (`crate::metrics`); what *is*, is looked up when somebody
//! asks. Counting images is the one thing that may take long, as LMDB has no count of a part of a
//! database: it is done again only after a commit, and so seldom that it takes a hundredth of the time.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::sockets::{self, Access, Socket, UnlinkOnDrop};
use crate::daemon::reader_monitor::ReaderMonitor;
use crate::log_throttle::throttled_log;
use crate::metrics::calls::Calls;
use crate::metrics::{Upstream, names};
use crate::model::{Error, Result};
use crate::store::read::usage::Usage;
use crate::store::{Kind, Records, Snapshot, Store};
use crate::transport::metrics_http::Listener;

/// So many namespaces are told apart, those with the most images; the others are one, `other`.
const MAX_NAMESPACE_LABELS: usize = 100;

/// Counting images takes at most one part in so many of the time.
const COUNT_DUTY_CYCLE: u32 = 100;

/// Where metrics are given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A port of a loopback address.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            Ok(address) => Err(format!(
                "{} is no loopback address, and metrics name namespaces: give a unix socket (a path that \
                 begins with /) or a loopback address with a port, such as 127.0.0.1:9478",
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
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl Address {
    /// Listens there. The unix socket is there until what comes with it is dropped. Says where it
    /// is: a port 0 is any that is free. A folder that others may write in is refused, as `--state` is.
    pub async fn listen(&self, access: Access) -> Result<(Listener, Option<UnlinkOnDrop>, Self)> {
        let told = |e: std::io::Error| Error::Internal(format!("metrics on {self}: {e}"));
        match self {
            Self::Unix(path) => {
                sockets::check_folder_of(path)?;
                let (_, bound, listener) =
                    Socket::reserve(path.clone())?.open(access)?.into_parts();
                Ok((Listener::Unix(listener), bound, self.clone()))
            }
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(told)?;
                let at = Self::Tcp(listener.local_addr().map_err(told)?);
                Ok((Listener::Tcp(listener), None, at))
            }
        }
    }
}

/// Everything that a scrape gets. Clones are the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// The figures of a daemon; those of the containerd behind, if there is one.
    pub fn new(
        store: Store,
        readers: Arc<Mutex<ReaderMonitor>>,
        calls: &Calls,
        upstream: Option<&Upstream>,
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
            counted: Mutex::default(),
        }));
        Self { registry: Arc::new(registry) }
    }

    /// The text that a scrape gets.
    pub async fn text(self) -> Result<String> {
        let made = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &self.registry)
                .map_err(|_| Error::Internal("the metrics cannot be written as text".into()))?;
            Ok(text)
        });
        made.await.unwrap_or_else(|e| Err(Error::Internal(format!("making the text: {e}"))))
    }
}

/// What is looked up for each scrape.
#[derive(Debug)]
struct StoreCollector {
    store: Store,
    readers: Arc<Mutex<ReaderMonitor>>,
    counted: Mutex<Option<Counted>>,
}

/// Images by namespace, as they were counted.
#[derive(Debug, Clone)]
struct Counted {
    images: Vec<(String, u64)>,
    commit: u64,
    took: Duration,
    at: Instant,
}

impl StoreCollector {
    fn images(&self, commit: u64) -> Result<Vec<(String, u64)>> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counted.as_ref()
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
        let images = match (self.store.read(count), counted.as_ref()) {
            (Ok(images), _) => bounded(images),
            // Too much was written meanwhile.
            (Err(Error::Unavailable(_)), Some(known)) => return Ok(known.images.clone()),
            (Err(e), _) => return Err(e),
        };
        *counted = Some(Counted { images: images.clone(), commit, took: at.elapsed(), at });
        Ok(images)
    }
}

/// The namespaces with the most images, and all others as one.
fn bounded(mut images: Vec<(String, u64)>) -> Vec<(String, u64)> {
    if images.len() > MAX_NAMESPACE_LABELS {
        images.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest = images.split_off(MAX_NAMESPACE_LABELS).iter().map(|(_, count)| count).sum();
        // A namespace may have this name; its images are among the others then.
        match images.iter_mut().find(|(name, _)| name == names::OTHER) {
            Some((_, count)) => *count += rest,
            None => images.push((names::OTHER.into(), rest)),
        }
    }
    images
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let looked = || -> Result<_> {
            let usage = self.store.usage()?;
            let images = self.images(usage.last_commit)?;
            let aside = self.store.read(|snapshot| snapshot.count_set_aside())?;
            let held = self.store.readers()?;
            let mut watch = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            let age = watch.observe_and_log(&held, usage.last_commit);
            Ok((usage, images, aside, held.len() as u64, age))
        };
        let (usage, images, aside, readers, age) = match looked() {
            Ok(looked) => looked,
            // What was counted is wanted then more than ever.
            Err(e) => {
                throttled_log!(Error, "metrics without figures of the store: {e}");
                return Ok(());
            }
        };
        for (name, help, value) in sizes(&usage, aside, readers) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
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
        for good in ["/run/m.sock", "127.0.0.1:9478", "127.8.8.8:1", "[::1]:9478"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["0.0.0.0:9478", "[::]:1", "192.0.2.1:80", "localhost:80", "m.sock", ":9478", ""]
        {
            let told = bad.parse::<Address>().unwrap_err();
            assert!(told.contains("such as 127.0.0.1:9478"), "{told}");
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
