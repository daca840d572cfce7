//! Wiring: which sockets there are, what answers them, in which order things start and end.
//!
//! - [`sockets`]: making a socket, or refusing to
//! - [`process`]: limits of the process, signals

pub mod process;
pub mod sockets;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::{Error, Result};
use crate::service::alone::Alone;
use crate::service::budget::Budget;
use crate::service::local::Local;
use crate::store::Store;
use crate::transport::Limits;
use crate::transport::grpc::Grpc;
use crate::transport::listener;
use crate::transport::ttrpc::Ttrpc;
use sockets::{Access, Socket};

/// Where the daemon keeps what, and who may speak to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the store.
    pub root: PathBuf,
    /// The folder of the sockets.
    pub state: PathBuf,
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
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    // Last: connections must have ended before the store closes.
    store: Store,
}

impl Daemon {
    /// Opens the store, then the sockets: when this returns, calls are answered.
    pub async fn start(config: &Config) -> Result<Self> {
        let access = Access { mode: 0o660, gid: config.gid };
        sockets::make_folder(&config.state)?;
        // A live socket is found before the store is touched.
        let grpc = Socket::claim(config.state.join("images.sock"))?;
        let ttrpc = Socket::claim(config.state.join("images.sock.ttrpc"))?;
        let root = config.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(|e| Error::Internal(format!("opening the store: {e}")))??;
        let local = Local::new(store.clone(), Budget::new(config.reply_budget));
        let (stop, stopping) = watch::channel(false);
        let mut daemon = Self {
            grpc: grpc.path().into(),
            ttrpc: ttrpc.path().into(),
            stop,
            servers: Vec::new(),
            store,
        };
        let limits = &config.limits;
        let served = Grpc::new(Arc::new(Alone::new(local.clone())), limits.clone());
        daemon.serve(grpc.open(access)?, limits, stopping.clone(), move |s, stop| {
            served.clone().connection(s, stop)
        });
        let events = local.events().clone();
        let served = Ttrpc::new(Arc::new(local.clone()), events, limits.clone());
        daemon.serve(ttrpc.open(access)?, limits, stopping.clone(), move |s, stop| {
            served.clone().connection(s, stop)
        });
        daemon.servers.push(tokio::spawn(collect(local, stopping)));
        Ok(daemon)
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

    /// Ends accepting, lets the calls in flight end, closes the store after its last write.
    pub async fn stop(self) {
        // The servers hold receivers; if none is left there is nothing to tell.
        let _ = self.stop.send(true);
        for server in self.servers {
            if let Err(e) = server.await {
                log::error!("a server ended badly: {e}");
            }
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
