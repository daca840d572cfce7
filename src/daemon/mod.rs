//! The daemon: its sockets, the services behind them, and the order of start and stop.
//!
//! - [`config`]: the configuration, and checking it
//! - [`sockets`]: creating listening sockets
//! - [`servers`]: serving a protocol on a socket
//! - [`standalone`], [`proxied`]: the services without a containerd, and in front of one
//! - [`systemd`]: socket activation, and reports to systemd
//! - [`process`]: limits of the process, signals
//! - [`metrics`]: the address of the metrics, and the figures of the store
//! - [`reader_monitor`]: readers of the store that are dead or hold old snapshots

pub(crate) mod config;
pub mod metrics;
pub(crate) mod process;
mod proxied;
mod reader_monitor;
mod servers;
mod services;
pub mod sockets;
mod standalone;
pub(crate) mod systemd;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::config::Config;
use self::metrics::{Address, Metrics};
use self::services::Services;
use self::sockets::{Access, ProxySockets, Socket, StateFolder, UpstreamSocket};
use self::sockets::{CONTAINERD_SOCK, CONTAINERD_TTRPC, IMAGES_SOCK, READONLY_SOCK, TTRPC_SOCK};
use self::systemd::activation::ActivatedSockets;
use crate::limits::memory::MemoryBudget;
use crate::model::{Context, Result};
use crate::proxy::images::ProxyImages;
use crate::service::local::LocalImages;
use crate::store::Store;
use crate::transport::conn::workers::WorkerPool;
use crate::transport::grpc::routes::readonly::ReadOnlyRouter;
use crate::transport::metrics_http;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    grpc: PathBuf,
    ttrpc: PathBuf,
    containerd: Option<PathBuf>,
    containerd_ttrpc: Option<PathBuf>,
    readonly: Option<PathBuf>,
    metrics: Option<Address>,
    proxy: Option<ProxyImages>,
    status: String,
    tasks: Vec<JoinHandle<()>>,
    /// Tells the servers to stop.
    stopping: CancellationToken,
    /// Cancels `stopping` when it is dropped.
    stop: DropGuard,
    servers: Vec<JoinHandle<()>>,
    workers: Arc<WorkerPool>,
    // Declared after the workers: connections must end before the store closes.
    store: Store,
    /// Declared last: the next daemon that locks the folder must find the store closed.
    _state: Option<StateFolder>,
}

impl Daemon {
    /// Opens the store and the sockets. The daemon answers calls when this returns.
    ///
    /// # Errors
    /// If a setting is wrong, if another process uses the store or a socket, or if the store is damaged.
    pub async fn start(config: &Config) -> Result<Self> {
        Self::start_with(config, ActivatedSockets::default()).await
    }

    /// As [`start`](Self::start), with sockets that systemd passed.
    pub(crate) async fn start_with(config: &Config, mut passed: ActivatedSockets) -> Result<Self> {
        config.check().map_err(|(_, e)| e)?;
        let is_readonly = config.readonly || passed.contains(READONLY_SOCK);
        let names = [
            (IMAGES_SOCK, true),
            (TTRPC_SOCK, true),
            (CONTAINERD_SOCK, config.containerd.is_some()),
            (CONTAINERD_TTRPC, config.containerd.is_some()),
            (READONLY_SOCK, is_readonly),
        ];
        // If systemd passed all sockets, their folder may be missing or not writable for us.
        let makes_sockets =
            names.into_iter().any(|(name, is_used)| is_used && !passed.contains(name));
        let state = makes_sockets.then(|| StateFolder::acquire(&config.state)).transpose()?;
        let upstream = config.containerd.as_deref();
        let upstream = upstream.map(|c| UpstreamSocket::inspect(c, &config.state)).transpose()?;
        // Another daemon's socket is found before the store is opened.
        let mut reserve = |name: &str| match passed.take(name) {
            Some(listener) => Ok(Socket::passed(listener, config.state.join(name))),
            None => Socket::reserve(config.state.join(name)),
        };
        let (grpc, ttrpc) = (reserve(IMAGES_SOCK)?, reserve(TTRPC_SOCK)?);
        let mut proxied = None;
        if let Some(upstream) = upstream {
            let (grpc, ttrpc) = (reserve(CONTAINERD_SOCK)?, reserve(CONTAINERD_TTRPC)?);
            proxied = Some(ProxySockets { upstream, grpc, ttrpc });
        }
        let readonly = is_readonly.then(|| reserve(READONLY_SOCK)).transpose()?;
        passed.reject_unclaimed()?;
        let (root, keep) = (config.root.clone(), Some(config.log_keep));
        let store = tokio::task::spawn_blocking(move || Store::open_and_keep(&root, keep))
            .await
            .or_internal("opening the store")??;
        let local = LocalImages::new(store.clone(), MemoryBudget::new(config.reply_budget));
        let stopping = CancellationToken::new();
        let mut daemon = Self {
            grpc: grpc.path().into(),
            ttrpc: ttrpc.path().into(),
            containerd: proxied.as_ref().map(|sockets| sockets.grpc.path().into()),
            containerd_ttrpc: proxied.as_ref().map(|sockets| sockets.ttrpc.path().into()),
            readonly: readonly.as_ref().map(|socket| socket.path().into()),
            metrics: None,
            proxy: None,
            status: format!("serving {}", config.root.display()),
            tasks: Vec::new(),
            stopping: stopping.clone(),
            stop: stopping.clone().drop_guard(),
            servers: Vec::new(),
            workers: Arc::new(WorkerPool::start()?),
            store,
            _state: state,
        };
        let monitored = Arc::new(Mutex::default());
        let monitor = reader_monitor::run(daemon.store.clone(), Arc::clone(&monitored));
        daemon.tasks.push(tokio::spawn(monitor.boxed()));
        daemon.tasks.push(tokio::spawn(check_files(daemon.store.clone()).boxed()));
        let limits = &config.limits;
        let served = match proxied {
            Some(sockets) => daemon.serve_proxied(local, grpc, ttrpc, sockets, config).await?,
            None => daemon.serve_standalone(local, grpc, ttrpc, config)?,
        };
        let Services { images, catalog, health } = served;
        if let Some(readonly) = readonly {
            let router = ReadOnlyRouter::new(images, catalog, health.clone(), daemon.store.uuid());
            daemon.serve_grpc(readonly.open(access(config.readonly_gid))?, router, limits);
        }
        if let Some(address) = &config.metrics {
            let (listener, bound, address) = address.listen(access(config.gid)).await?;
            let upstream = daemon.proxy.as_ref().map(ProxyImages::upstream);
            let metrics = Metrics::new(
                daemon.store.clone(),
                monitored,
                &limits.metrics,
                upstream,
                health.clone(),
            );
            daemon.metrics = Some(address);
            let server = async move {
                metrics_http::run(listener, stopping, metrics).await;
                drop(bound);
            };
            daemon.servers.push(tokio::spawn(server.boxed()));
        }
        let notify = systemd::notify::run(health, daemon.status.clone());
        daemon.tasks.push(tokio::spawn(notify.boxed()));
        Ok(daemon)
    }

    /// Path of the gRPC socket.
    pub fn grpc(&self) -> &Path {
        &self.grpc
    }

    /// Path of the ttrpc socket.
    pub fn ttrpc(&self) -> &Path {
        &self.ttrpc
    }

    /// Path of the socket that answers all calls of containerd, in proxy mode.
    pub fn containerd_socket(&self) -> Option<&Path> {
        self.containerd.as_deref()
    }

    /// Path of the socket that forwards to containerd's ttrpc socket, in proxy mode.
    pub fn containerd_ttrpc(&self) -> Option<&Path> {
        self.containerd_ttrpc.as_deref()
    }

    /// Path of the read-only socket, if configured.
    pub fn readonly(&self) -> Option<&Path> {
        self.readonly.as_deref()
    }

    /// Address at which metrics are served, if configured.
    pub fn metrics(&self) -> Option<&Address> {
        self.metrics.as_ref()
    }

    /// The images of containerd, in proxy mode.
    pub fn proxy(&self) -> Option<&ProxyImages> {
        self.proxy.as_ref()
    }

    /// Status of a healthy daemon, for systemd: what it serves.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Stops accepting connections, lets the calls in flight end, and closes the store after its last
    /// write.
    pub async fn stop(self) {
        drop(self.stop);
        for server in self.servers {
            if let Err(e) = server.await {
                log::error!("a server failed: {e}");
            }
        }
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        let closing = (self.workers, self.store, self._state);
        // Closing joins the worker threads, so it must not block an async thread.
        let _ = tokio::task::spawn_blocking(move || drop(closing)).await;
    }
}

/// Checks periodically that the store's files are still in their folder, so that the log says when they
/// are not. Each write and each health check does the same check.
async fn check_files(store: Store) {
    const INTERVAL: Duration = Duration::from_secs(2);
    loop {
        tokio::time::sleep(INTERVAL).await;
        // The check itself logs its result.
        let _ = store.check_files();
    }
}

/// The access to a socket: that of its owner and of a group.
fn access(gid: Option<u32>) -> Access {
    Access { mode: 0o660, uid: None, gid }
}
