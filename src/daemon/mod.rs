//! Wiring: which sockets there are, what answers them, in which order things start and end.
//!
//! - [`sockets`]: making a socket, or refusing to
//! - [`systemd`]: sockets that systemd made, and telling it what the daemon does
//! - [`process`]: limits of the process, signals
//! - [`check`]: what is wrong with a configuration
//! - [`metrics`]: where metrics are given out
//! - `reader_monitor`: readers of the store that are dead or forgotten

pub mod check;
pub mod metrics;
pub mod process;
mod reader_monitor;
pub mod sockets;
pub mod systemd;

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
use crate::service::events::Exchange;
use crate::service::local::LocalImages;
use crate::service::standalone::Standalone;
use crate::store::Store;
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

/// Where the daemon keeps what, and who may speak to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the store.
    pub root: PathBuf,
    /// The folder of the sockets.
    pub state: PathBuf,
    /// The containerd to stand in front of, if any.
    pub containerd: Option<PathBuf>,
    /// The group that may use the sockets; root's, or the user's own, if none.
    pub gid: Option<u32>,
    /// Whether there is a socket that only reads.
    pub readonly: bool,
    /// The group that may use it; root's, or the user's own, if none.
    pub readonly_gid: Option<u32>,
    /// Where metrics are given out, if anywhere.
    pub metrics: Option<Address>,
    /// What clients may take.
    pub limits: Limits,
    /// Memory, in bytes, for large replies under way.
    pub reply_budget: u32,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    grpc: PathBuf,
    ttrpc: PathBuf,
    whole: Option<PathBuf>,
    containerd_ttrpc: Option<PathBuf>,
    readonly: Option<PathBuf>,
    metrics: Option<Address>,
    status: String,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    threads: Arc<WorkerPool>,
    // Connections must have ended before the store closes.
    store: Store,
    /// Last: the next daemon must find the store closed.
    _state: Option<StateFolder>,
}

impl Daemon {
    /// Opens the store, then the sockets: when this returns, calls are answered.
    pub async fn start(config: &Config) -> Result<Self> {
        Self::start_with(config, ActivatedSockets::default()).await
    }

    /// The same, with sockets that systemd made.
    pub async fn start_with(config: &Config, mut passed: ActivatedSockets) -> Result<Self> {
        config.check().map_err(|(_, e)| e)?;
        let is_readonly = config.readonly || passed.has(READONLY_SOCK);
        let names = [
            (IMAGES_SOCK, true),
            (TTRPC_SOCK, true),
            (CONTAINERD_SOCK, config.containerd.is_some()),
            (CONTAINERD_TTRPC, config.containerd.is_some()),
            (READONLY_SOCK, is_readonly),
        ];
        // When systemd made all sockets, the folder may be missing, or closed to us.
        let makes_sockets = names.into_iter().any(|(name, is_used)| is_used && !passed.has(name));
        let state = makes_sockets.then(|| StateFolder::acquire(&config.state)).transpose()?;
        let behind = config
            .containerd
            .as_deref()
            .map(|c| UpstreamSocket::look(c, &config.state))
            .transpose()?;
        // A live socket is found before the store is touched.
        let mut claim = |name: &str| match passed.take(name) {
            Some(listener) => Ok(Socket::passed(listener, config.state.join(name))),
            None => Socket::reserve(config.state.join(name)),
        };
        let (grpc, ttrpc) = (claim(IMAGES_SOCK)?, claim(TTRPC_SOCK)?);
        let whole = behind.is_some().then(|| claim(CONTAINERD_SOCK)).transpose()?;
        let containerd_ttrpc = behind.is_some().then(|| claim(CONTAINERD_TTRPC)).transpose()?;
        let readonly = is_readonly.then(|| claim(READONLY_SOCK)).transpose()?;
        passed.reject_unclaimed()?;
        let root = config.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(|e| Error::Internal(format!("opening the store: {e}")))??;
        let local = LocalImages::new(store.clone(), MemoryBudget::new(config.reply_budget));
        let (stop, stopping) = watch::channel(false);
        let path = |socket: &Option<Socket>| socket.as_ref().map(|socket| socket.path().into());
        let mut daemon = Self {
            grpc: grpc.path().into(),
            ttrpc: ttrpc.path().into(),
            whole: path(&whole),
            containerd_ttrpc: path(&containerd_ttrpc),
            readonly: path(&readonly),
            metrics: None,
            status: format!("serving {}", config.root.display()),
            tasks: Vec::new(),
            stop,
            servers: Vec::new(),
            threads: Arc::new(WorkerPool::start()?),
            store,
            _state: state,
        };
        let watch = Arc::new(Mutex::default());
        daemon
            .tasks
            .push(tokio::spawn(reader_monitor::watch(daemon.store.clone(), Arc::clone(&watch))));
        daemon.tasks.push(tokio::spawn(check_files(daemon.store.clone())));
        let limits = &config.limits;
        let mut upstream = None;
        let access = |gid| Access { mode: 0o660, uid: None, gid };
        let (images, health): (Arc<dyn Images>, _) =
            if let Some((behind, whole)) = behind.zip(whole) {
                daemon
                    .status
                    .push_str(&format!(", in front of containerd at {}", behind.socket.display()));
                let front = ProxyImages::new(GrpcClient::lazy(&behind.socket), local);
                upstream = Some(front.upstream().clone());
                let health = Health::new(daemon.store.clone(), Some(front.clone()));
                let line = || Upstream::new(Arc::from(behind.socket.as_path()));
                let images_only = ProxyRouter::images_only(front.clone(), health.clone(), line());
                daemon.serve_grpc(grpc.open(access(config.gid))?, images_only, limits, &stopping);
                let before = ProxyRouter::forwards_all(front.clone(), health.clone(), line());
                // Whoever has so many calls on the other sockets takes none from containerd's clients.
                let apart = Limits { admission: Admission::default(), ..limits.clone() };
                daemon.serve_grpc(whole.open(behind.access)?, before, &apart, &stopping);
                let images = Arc::new(front.clone());
                let ttrpc = ttrpc.open(access(config.gid))?;
                daemon.serve_ttrpc(ttrpc, images.clone(), None, limits, &stopping);
                if let Some(socket) = containerd_ttrpc {
                    let ours = behind.ttrpc(&config.state)?;
                    daemon.forward_ttrpc(socket, &ours, limits, &stopping)?;
                }
                daemon.tasks.push(tokio::spawn(proxy::watch::run(front.clone())));
                daemon.tasks.push(tokio::spawn(reconcile::run(front)));
                (images, health)
            } else {
                let health = Health::new(daemon.store.clone(), None);
                let table = StandaloneRouter::new(Standalone::new(local.clone()), health.clone());
                daemon.serve_grpc(grpc.open(access(config.gid))?, table, limits, &stopping);
                let (images, events) = (Arc::new(local.clone()), Some(local.events().clone()));
                let ttrpc = ttrpc.open(access(config.gid))?;
                daemon.serve_ttrpc(ttrpc, images.clone(), events, limits, &stopping);
                daemon.servers.push(tokio::spawn(collect(local, stopping.clone())));
                (images, health)
            };
        if let Some(readonly) = readonly {
            let table = ReadOnlyRouter::new(images, health.clone(), daemon.store.uuid());
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
        events: Option<Exchange>,
        limits: &Limits,
        stop: &listener::Shutdown,
    ) {
        let served = TtrpcServer::new(images, events, limits.clone());
        self.serve(socket, limits, stop.clone(), move |s, stop| served.clone().connection(s, stop));
    }

    fn forward_ttrpc(
        &mut self,
        socket: Socket,
        behind: &UpstreamSocket,
        limits: &Limits,
        stop: &listener::Shutdown,
    ) -> Result<()> {
        let forwarder = TtrpcForwarder::new(&behind.socket, limits.metrics.clone());
        let socket = socket.open(behind.access)?;
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
        let (limits, threads) = (limits.clone(), Arc::clone(&self.threads));
        self.servers.push(tokio::spawn(async move {
            let (name, bound, listener) = socket.into_parts();
            listener::run(&name, listener, &limits, &threads, stop, serve).await;
            drop(bound);
        }));
    }

    /// The gRPC socket.
    pub fn grpc(&self) -> &Path {
        &self.grpc
    }

    /// The ttrpc socket.
    pub fn ttrpc(&self) -> &Path {
        &self.ttrpc
    }

    /// The socket that answers all that containerd does, in front of one.
    pub fn containerd_socket(&self) -> Option<&Path> {
        self.whole.as_deref()
    }

    /// The socket whose connections are passed on to containerd's ttrpc socket, in front of one.
    pub fn containerd_ttrpc(&self) -> Option<&Path> {
        self.containerd_ttrpc.as_deref()
    }

    /// The socket that only reads, if it was asked for.
    pub fn readonly(&self) -> Option<&Path> {
        self.readonly.as_deref()
    }

    /// Where metrics are given out, if anywhere.
    pub fn metrics(&self) -> Option<&Address> {
        self.metrics.as_ref()
    }

    /// What it does, in a few words.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Ends accepting, lets the calls in flight end, closes the store after its last write.
    pub async fn stop(self) {
        // The servers hold receivers; if none is left there is nothing to tell.
        let _ = self.stop.send(true);
        for server in self.servers {
            if let Err(e) = server.await {
                log::error!("a server ended badly: {e}");
            }
        }
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        let closing = (self.threads, self.store, self._state);
        // Closing waits for the threads.
        let _ = tokio::task::spawn_blocking(move || drop(closing)).await;
    }
}

/// Looks from time to time whether the store's files are still in their folder, so that it is logged
/// when they are not. Each write and each health check looks too.
async fn check_files(store: Store) {
    const INTERVAL: Duration = Duration::from_secs(2);
    loop {
        tokio::time::sleep(INTERVAL).await;
        // What it finds is in the log.
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
