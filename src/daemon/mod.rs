//! Wiring: which sockets there are, what answers them, in which order things start and end.
//!
//! - [`sockets`]: making a socket, or refusing to
//! - [`process`]: limits of the process, signals
//! - `readers`: looking after the readers of the store

pub mod process;
mod readers;
pub mod sockets;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::front::client::Containerd;
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
use crate::transport::forward::Line;
use crate::transport::grpc::{Grpc, Handler};
use crate::transport::grpc_front::Before;
use crate::transport::listener;
use crate::transport::ttrpc::Ttrpc;
use sockets::{Access, Behind, Socket};

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
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    // Last: connections must have ended before the store closes.
    store: Store,
}

impl Daemon {
    /// Opens the store, then the sockets: when this returns, calls are answered.
    pub async fn start(config: &Config) -> Result<Self> {
        let access = Access { mode: 0o660, uid: None, gid: config.gid };
        sockets::make_folder(&config.state)?;
        // A live socket is found before the store is touched.
        let socket = |name: &str| Socket::claim(config.state.join(name));
        let (grpc, ttrpc) = (socket("images.sock")?, socket("images.sock.ttrpc")?);
        let behind =
            config.containerd.as_deref().map(|c| Behind::look(c, &config.state)).transpose()?;
        let whole = behind.is_some().then(|| socket("containerd.sock")).transpose()?;
        let root = config.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(|e| Error::Internal(format!("opening the store: {e}")))??;
        let local = Local::new(store.clone(), Budget::new(config.reply_budget));
        let (stop, stopping) = watch::channel(false);
        let mut daemon = Self {
            grpc: grpc.path().into(),
            ttrpc: ttrpc.path().into(),
            whole: whole.as_ref().map(|socket| socket.path().into()),
            tasks: Vec::new(),
            stop,
            servers: Vec::new(),
            store,
        };
        daemon.tasks.push(tokio::spawn(readers::watch(daemon.store.clone())));
        let limits = &config.limits;
        let Some((behind, whole)) = behind.zip(whole) else {
            daemon.serve_grpc(
                grpc.open(access)?,
                Arc::new(Alone::new(local.clone())),
                limits,
                &stopping,
            );
            let events = Some(local.events().clone());
            daemon.serve_ttrpc(
                ttrpc.open(access)?,
                Arc::new(local.clone()),
                events,
                limits,
                &stopping,
            );
            daemon.servers.push(tokio::spawn(collect(local, stopping)));
            return Ok(daemon);
        };
        let (front, due) = Front::new(Containerd::lazy(&behind.socket), local);
        let line = || Line::new(Arc::from(behind.socket.as_path()));
        let images_only = Before::images_only(front.clone(), line());
        daemon.serve_grpc(grpc.open(access)?, images_only, limits, &stopping);
        let before = Before::whole(front.clone(), line());
        daemon.serve_grpc(whole.open(behind.access)?, before, limits, &stopping);
        daemon.serve_ttrpc(ttrpc.open(access)?, Arc::new(front.clone()), None, limits, &stopping);
        daemon.tasks.push(tokio::spawn(follow::run(front.clone())));
        daemon.tasks.push(tokio::spawn(resync::run(front, due)));
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

    fn serve<S, F>(
        &mut self,
        socket: sockets::Open,
        limits: &Limits,
        stop: listener::Stop,
        serve: S,
    ) where
        S: Fn(tokio::net::UnixStream, listener::Stop) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let limits = limits.clone();
        self.servers.push(tokio::spawn(async move {
            let (name, bound, listener) = socket.into_parts();
            listener::run(&name, listener, &limits, stop, serve).await;
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
        let store = self.store;
        // Closing waits for the writing thread.
        let _ = tokio::task::spawn_blocking(move || drop(store)).await;
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
