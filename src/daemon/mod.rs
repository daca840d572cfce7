//! The daemon: its sockets, the services upstream_socket them, and the order of start and stop.
//!
//! - [`sockets`]: creating listening sockets
//! - [`systemd`]: socket activation, and reports to systemd
//! - [`process`]: limits of the process, signals
//! - [`mod@check`]: checking a configuration
//! - [`metrics`]: the address of the metrics, and the figures of the store
//! - [`reader_monitor`]: readers of the store that are dead or hold old snapshots

pub mod check;
pub mod metrics;
pub(crate) mod process;
mod reader_monitor;
pub mod sockets;
pub(crate) mod systemd;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::containerd::client::GrpcClient;
use crate::daemon::systemd::activation::ActivatedSockets;
use crate::health::Health;
use crate::limits::memory::MemoryBudget;
use crate::model::{Error, Result};
use crate::proxy::images::ProxyImages;
use crate::proxy::{self, reconcile};
use crate::service::Images;
use crate::service::catalog::Catalog;
use crate::service::events::Exchange;
use crate::service::local::LocalImages;
use crate::service::standalone::Standalone;
use crate::store::{Retention, Store};
use crate::transport::Limits;
use crate::transport::conn::admission::Admission;
use crate::transport::conn::listener;
use crate::transport::conn::workers::WorkerPool;
use crate::transport::grpc::forward::upstream::Upstream;
use crate::transport::grpc::routes::proxy::ProxyRouter;
use crate::transport::grpc::routes::readonly::ReadOnlyRouter;
use crate::transport::grpc::routes::standalone::StandaloneRouter;
use crate::transport::grpc::server::{GrpcServer, Router};
use crate::transport::metrics_http;
use crate::transport::ttrpc::forward::TtrpcForwarder;
use crate::transport::ttrpc::server::TtrpcServer;
use metrics::{Address, Metrics};
use sockets::{Access, Socket, StateFolder, UpstreamSocket};
use sockets::{CONTAINERD_SOCK, CONTAINERD_TTRPC, IMAGES_SOCK, READONLY_SOCK, SOCKETS, TTRPC_SOCK};

/// Configuration of a daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the store.
    pub root: PathBuf,
    /// Folder of the sockets.
    pub state: PathBuf,
    /// Socket of the upstream containerd, in proxy mode.
    pub containerd: Option<PathBuf>,
    /// Group that may connect to the sockets; `None` for the group of the process.
    pub gid: Option<u32>,
    /// Whether the daemon opens a read-only socket.
    pub readonly: bool,
    /// Group that may connect to the read-only socket; `None` for the group of the process.
    pub readonly_gid: Option<u32>,
    /// Address at which metrics are served, if any.
    pub metrics: Option<Address>,
    /// Limits on connections, calls and their memory.
    pub limits: Limits,
    /// Memory in bytes for large replies in flight.
    pub reply_budget: u32,
    /// How much of the log of changes is kept.
    pub log_keep: Retention,
}

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
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    workers: Arc<WorkerPool>,
    // Declared after the worker workers: connections must end before the store closes.
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
    pub async fn start_with(config: &Config, mut passed: ActivatedSockets) -> Result<Self> {
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
        let upstream_socket = config
            .containerd
            .as_deref()
            .map(|c| UpstreamSocket::inspect(c, &config.state))
            .transpose()?;
        // Another daemon's socket is found before the store is opened.
        let mut reserve = |name: &str| match passed.take(name) {
            Some(listener) => Ok(Socket::passed(listener, config.state.join(name))),
            None => Socket::reserve(config.state.join(name)),
        };
        let (grpc, ttrpc) = (reserve(IMAGES_SOCK)?, reserve(TTRPC_SOCK)?);
        let containerd = upstream_socket.is_some().then(|| reserve(CONTAINERD_SOCK)).transpose()?;
        let containerd_ttrpc =
            upstream_socket.is_some().then(|| reserve(CONTAINERD_TTRPC)).transpose()?;
        let readonly = is_readonly.then(|| reserve(READONLY_SOCK)).transpose()?;
        passed.reject_unclaimed()?;
        let (root, keep) = (config.root.clone(), Some(config.log_keep));
        let store = tokio::task::spawn_blocking(move || Store::open_and_keep(&root, keep))
            .await
            .map_err(|e| Error::Internal(format!("opening the store: {e}")))??;
        let local = LocalImages::new(store.clone(), MemoryBudget::new(config.reply_budget));
        let (stop, stopping) = watch::channel(false);
        let path = |socket: &Option<Socket>| socket.as_ref().map(|socket| socket.path().into());
        let mut daemon = Self {
            grpc: grpc.path().into(),
            ttrpc: ttrpc.path().into(),
            containerd: path(&containerd),
            containerd_ttrpc: path(&containerd_ttrpc),
            readonly: path(&readonly),
            metrics: None,
            proxy: None,
            status: format!("serving {}", config.root.display()),
            tasks: Vec::new(),
            stop,
            servers: Vec::new(),
            workers: Arc::new(WorkerPool::start()?),
            store,
            _state: state,
        };
        let watch = Arc::new(Mutex::default());
        daemon
            .tasks
            .push(tokio::spawn(reader_monitor::run(daemon.store.clone(), Arc::clone(&watch))));
        daemon.tasks.push(tokio::spawn(check_files(daemon.store.clone())));
        let limits = &config.limits;
        let mut upstream = None;
        let access = |gid| Access { mode: 0o660, uid: None, gid };
        let (images, catalog, health): (Arc<dyn Images>, _, _) =
            if let Some((upstream_socket, containerd)) = upstream_socket.zip(containerd) {
                daemon.status.push_str(&format!(
                    ", in front of containerd at {}",
                    upstream_socket.socket.display()
                ));
                let proxy_images =
                    ProxyImages::new(GrpcClient::lazy(&upstream_socket.socket), local);
                upstream = Some(proxy_images.upstream().clone());
                daemon.proxy = Some(proxy_images.clone());
                let health = Health::new(daemon.store.clone(), Some(proxy_images.clone()));
                let catalog =
                    Catalog::new(proxy_images.local().clone(), Arc::new(proxy_images.clone()));
                let connect = || Upstream::new(Arc::from(upstream_socket.socket.as_path()));
                let images_only = ProxyRouter::images_only(
                    proxy_images.clone(),
                    catalog.clone(),
                    health.clone(),
                    connect(),
                );
                daemon.serve_grpc(grpc.open(access(config.gid))?, images_only, limits, &stopping);
                let before = ProxyRouter::forwards_all(
                    proxy_images.clone(),
                    catalog.clone(),
                    health.clone(),
                    connect(),
                );
                // Calls on the other sockets take no admission slots from containerd's clients.
                let own_admission = Limits { admission: Admission::default(), ..limits.clone() };
                daemon.serve_grpc(
                    containerd.open(upstream_socket.access)?,
                    before,
                    &own_admission,
                    &stopping,
                );
                let images = Arc::new(proxy_images.clone());
                let ttrpc = ttrpc.open(access(config.gid))?;
                daemon.serve_ttrpc(ttrpc, images.clone(), catalog.clone(), None, limits, &stopping);
                if let Some(socket) = containerd_ttrpc {
                    let ours = upstream_socket.ttrpc(&config.state)?;
                    daemon.forward_ttrpc(socket, &ours, limits, &stopping)?;
                }
                daemon.tasks.push(tokio::spawn(proxy::watch::run(proxy_images.clone())));
                daemon.tasks.push(tokio::spawn(reconcile::run(proxy_images)));
                (images, catalog, health)
            } else {
                let health = Health::new(daemon.store.clone(), None);
                let catalog = Catalog::new(local.clone(), Arc::new(local.clone()));
                let standalone = Standalone::new(local.clone());
                let table = StandaloneRouter::new(standalone, catalog.clone(), health.clone());
                daemon.serve_grpc(grpc.open(access(config.gid))?, table, limits, &stopping);
                let (images, events) = (Arc::new(local.clone()), Some(local.events().clone()));
                let ttrpc = ttrpc.open(access(config.gid))?;
                daemon.serve_ttrpc(
                    ttrpc,
                    images.clone(),
                    catalog.clone(),
                    events,
                    limits,
                    &stopping,
                );
                daemon.servers.push(tokio::spawn(collect(local, stopping.clone())));
                (images, catalog, health)
            };
        if let Some(readonly) = readonly {
            let table = ReadOnlyRouter::new(images, catalog, health.clone(), daemon.store.uuid());
            let access = access(config.readonly_gid);
            daemon.serve_grpc(readonly.open(access)?, table, limits, &stopping);
        }
        if let Some(address) = &config.metrics {
            let (listener, bound, at) = address.listen(access(config.gid)).await?;
            let store = daemon.store.clone();
            let metrics = Metrics::new(store, watch, &limits.metrics, upstream.as_ref());
            daemon.metrics = Some(at);
            daemon.servers.push(tokio::spawn(async move {
                metrics_http::run(listener, stopping, move || metrics.clone().text()).await;
                drop(bound);
            }));
        }
        daemon
            .tasks
            .push(tokio::spawn(crate::daemon::systemd::notify::run(health, daemon.status.clone())));
        Ok(daemon)
    }

    fn serve_grpc<H: Router>(
        &mut self,
        socket: sockets::ListeningSocket,
        handler: H,
        limits: &Limits,
        stop: &listener::Shutdown,
    ) {
        let served = GrpcServer::new(handler, limits.clone());
        self.serve(socket, limits, stop.clone(), move |s, stop| served.clone().connection(s, stop));
    }

    fn serve_ttrpc(
        &mut self,
        socket: sockets::ListeningSocket,
        images: Arc<dyn Images>,
        catalog: Catalog,
        events: Option<Exchange>,
        limits: &Limits,
        stop: &listener::Shutdown,
    ) {
        let served = TtrpcServer::new(images, catalog, events, limits.clone());
        self.serve(socket, limits, stop.clone(), move |s, stop| served.clone().connection(s, stop));
    }

    fn forward_ttrpc(
        &mut self,
        socket: Socket,
        upstream_socket: &UpstreamSocket,
        limits: &Limits,
        stop: &listener::Shutdown,
    ) -> Result<()> {
        let forwarder = TtrpcForwarder::new(&upstream_socket.socket, limits.metrics.clone());
        let socket = socket.open(upstream_socket.access)?;
        self.serve(socket, limits, stop.clone(), move |s, stop| {
            forwarder.clone().connection(s, stop)
        });
        Ok(())
    }

    fn serve<S, F>(
        &mut self,
        socket: sockets::ListeningSocket,
        limits: &Limits,
        stop: listener::Shutdown,
        serve: S,
    ) where
        S: Fn(tokio::net::UnixStream, listener::Shutdown) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (limits, workers) = (limits.clone(), Arc::clone(&self.workers));
        self.servers.push(tokio::spawn(async move {
            let (name, bound, listener) = socket.into_parts();
            listener::run(&name, listener, &limits, &workers, stop, serve).await;
            drop(bound);
        }));
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

    /// The images of the containerd behind, in proxy mode.
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
        // Sending fails only if no server is left to receive it.
        let _ = self.stop.send(true);
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

/// Removes what has expired: once after the start, then whenever it is time, until `stop`.
async fn collect(local: LocalImages, mut stop: listener::Shutdown) {
    loop {
        let collected = tokio::select! {
            () = listener::wait(&mut stop) => return,
            collected = local.collect() => collected,
        };
        if let Err(e) = collected {
            log::error!("collecting what has expired: {e}");
        }
        tokio::select! {
            () = listener::wait(&mut stop) => return,
            () = local.collector().due() => {}
        }
    }
}
