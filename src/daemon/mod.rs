//! Wiring: which sockets there are, what answers them, in which order things start and end.
//!
//! - [`sockets`]: making a socket, or refusing to; [`activation`]: those that systemd made
//! - [`process`]: limits of the process, signals; [`notify`]: telling systemd how things stand
//! - [`metrics`]: where metrics are given out
//! - `readers`: looking after the readers of the store

pub mod activation;
pub mod metrics;
pub mod notify;
pub mod process;
mod readers;
pub mod sockets;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::front::client::Containerd;
use crate::front::health::Health;
use crate::front::images::Front;
use crate::front::{follow, resync};
use crate::model::{Error, Result};
use crate::service::Images;
use crate::service::alone::Alone;
use crate::service::budget::Budget;
use crate::service::events::Exchange;
use crate::service::local::Local;
use crate::store::Store;
use crate::transport::Limits;
use crate::transport::begun::Begun;
use crate::transport::forward::Line;
use crate::transport::grpc::{Grpc, Handler};
use crate::transport::grpc_alone::Table;
use crate::transport::grpc_front::Before;
use crate::transport::grpc_readonly::ReadOnly;
use crate::transport::listener;
use crate::transport::scrape;
use crate::transport::threads::Threads;
use crate::transport::ttrpc::Ttrpc;
use crate::transport::ttrpc_forward::TtrpcForwarder;
use activation::Passed;
use metrics::{Address, Metrics};
use sockets::{Access, Behind, Socket};

/// The sockets' names, in their folder and for systemd.
const GRPC: &str = "images.sock";
const TTRPC: &str = "images.sock.ttrpc";
const WHOLE: &str = "containerd.sock";
const CONTAINERD_TTRPC: &str = "containerd.sock.ttrpc";
const READONLY: &str = "readonly.sock";

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
    threads: Arc<Threads>,
    // Last: connections must have ended before the store closes.
    store: Store,
}

impl Daemon {
    /// Opens the store, then the sockets: when this returns, calls are answered.
    pub async fn start(config: &Config) -> Result<Self> {
        Self::start_with(config, Passed::default()).await
    }

    /// The same, with sockets that systemd made.
    pub async fn start_with(config: &Config, mut passed: Passed) -> Result<Self> {
        sockets::make_folder(&config.state)?;
        let behind =
            config.containerd.as_deref().map(|c| Behind::look(c, &config.state)).transpose()?;
        let is_readonly = config.readonly || passed.has(READONLY);
        // A live socket is found before the store is touched.
        let mut claim = |name: &str| match passed.take(name) {
            Some(listener) => Ok(Socket::passed(listener, config.state.join(name))),
            None => Socket::claim(config.state.join(name)),
        };
        let (grpc, ttrpc) = (claim(GRPC)?, claim(TTRPC)?);
        let whole = behind.is_some().then(|| claim(WHOLE)).transpose()?;
        let containerd_ttrpc = behind.is_some().then(|| claim(CONTAINERD_TTRPC)).transpose()?;
        let readonly = is_readonly.then(|| claim(READONLY)).transpose()?;
        passed.nothing_left()?;
        let root = config.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(|e| Error::Internal(format!("opening the store: {e}")))??;
        let local = Local::new(store.clone(), Budget::new(config.reply_budget));
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
            threads: Arc::new(Threads::start()?),
            store,
        };
        let watch = Arc::new(Mutex::default());
        daemon.tasks.push(tokio::spawn(readers::watch(daemon.store.clone(), Arc::clone(&watch))));
        let limits = &config.limits;
        let mut upstream = None;
        let access = |gid| Access { mode: 0o660, uid: None, gid };
        let (images, health): (Arc<dyn Images>, _) = if let Some((behind, whole)) =
            behind.zip(whole)
        {
            daemon
                .status
                .push_str(&format!(", in front of containerd at {}", behind.socket.display()));
            let (front, due) = Front::new(Containerd::lazy(&behind.socket), local);
            upstream = Some(front.upstream().clone());
            let health = Health::new(daemon.store.clone(), Some(front.clone()));
            let line = || Line::new(Arc::from(behind.socket.as_path()));
            let images_only = Before::images_only(front.clone(), health.clone(), line());
            daemon.serve_grpc(grpc.open(access(config.gid))?, images_only, limits, &stopping);
            let before = Before::whole(front.clone(), health.clone(), line());
            // Whoever has so many calls on the other sockets takes none from containerd's clients.
            let apart = Limits { begun: Begun::default(), ..limits.clone() };
            daemon.serve_grpc(whole.open(behind.access)?, before, &apart, &stopping);
            let images = Arc::new(front.clone());
            let ttrpc = ttrpc.open(access(config.gid))?;
            daemon.serve_ttrpc(ttrpc, images.clone(), None, limits, &stopping);
            if let Some(socket) = containerd_ttrpc {
                daemon.forward_ttrpc(socket, &behind.ttrpc(&config.state)?, limits, &stopping)?;
            }
            daemon.tasks.push(tokio::spawn(follow::run(front.clone())));
            daemon.tasks.push(tokio::spawn(resync::run(front, due)));
            (images, health)
        } else {
            let health = Health::new(daemon.store.clone(), None);
            let table = Table::new(Alone::new(local.clone()), health.clone());
            daemon.serve_grpc(grpc.open(access(config.gid))?, table, limits, &stopping);
            let (images, events) = (Arc::new(local.clone()), Some(local.events().clone()));
            let ttrpc = ttrpc.open(access(config.gid))?;
            daemon.serve_ttrpc(ttrpc, images.clone(), events, limits, &stopping);
            daemon.servers.push(tokio::spawn(collect(local, stopping.clone())));
            (images, health)
        };
        if let Some(readonly) = readonly {
            let table = ReadOnly::new(images, health.clone(), daemon.store.uuid());
            let access = access(config.readonly_gid);
            daemon.serve_grpc(readonly.open(access)?, table, limits, &stopping);
        }
        if let Some(address) = &config.metrics {
            let (listener, bound, at) = address.listen(access(config.gid)).await?;
            let store = daemon.store.clone();
            let metrics = Metrics::new(store, watch, &limits.counted, upstream.as_ref());
            daemon.metrics = Some(at);
            daemon.servers.push(tokio::spawn(async move {
                scrape::run(listener, stopping, move || metrics.clone().text()).await;
                drop(bound);
            }));
        }
        daemon.tasks.push(tokio::spawn(notify::run(health, daemon.status.clone())));
        Ok(daemon)
    }

    fn serve_grpc<H: Handler>(
        &mut self,
        socket: sockets::Open,
        handler: H,
        limits: &Limits,
        stop: &listener::Stop,
    ) {
        let served = Grpc::new(handler, limits.clone());
        self.serve(socket, limits, stop.clone(), move |s, stop| served.clone().connection(s, stop));
    }

    fn serve_ttrpc(
        &mut self,
        socket: sockets::Open,
        images: Arc<dyn Images>,
        events: Option<Exchange>,
        limits: &Limits,
        stop: &listener::Stop,
    ) {
        let served = Ttrpc::new(images, events, limits.clone());
        self.serve(socket, limits, stop.clone(), move |s, stop| served.clone().connection(s, stop));
    }

    fn forward_ttrpc(
        &mut self,
        socket: Socket,
        behind: &Behind,
        limits: &Limits,
        stop: &listener::Stop,
    ) -> Result<()> {
        let forwarder = TtrpcForwarder::new(&behind.socket, limits.counted.clone());
        let socket = socket.open(behind.access)?;
        self.serve(socket, limits, stop.clone(), move |s, stop| {
            forwarder.clone().connection(s, stop)
        });
        Ok(())
    }

    fn serve<S, F>(
        &mut self,
        socket: sockets::Open,
        limits: &Limits,
        stop: listener::Stop,
        serve: S,
    ) where
        S: Fn(tokio::net::UnixStream, listener::Stop) -> F + Clone + Send + Sync + 'static,
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
    pub fn whole(&self) -> Option<&Path> {
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
        let (threads, store) = (self.threads, self.store);
        // Closing waits for the threads.
        let _ = tokio::task::spawn_blocking(move || drop((threads, store))).await;
    }
}

/// Removes what has expired: once after the start, then whenever it is time, until `stop`.
async fn collect(local: Local, mut stop: listener::Stop) {
    loop {
        if let Err(e) = local.collect().await {
            log::error!("collecting what has expired: {e}");
        }
        tokio::select! {
            () = listener::stopped(&mut stop) => return,
            () = local.collector().due() => {}
        }
    }
}
