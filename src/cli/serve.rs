//! `lmdb-images serve`.

use std::path::PathBuf;

use clap::Args;

use super::{Root, default_state};
use crate::daemon::process::{self, Signals};
use crate::daemon::{Config, Daemon};
use crate::model::{Error, Result};
use crate::transport::Limits;

/// Serve image names from the store, over gRPC (images.sock) and ttrpc (images.sock.ttrpc)
///
/// Runs until SIGTERM or SIGINT, then lets the calls in flight end and exits with 0; a second
/// signal does not wait for them. RUST_LOG sets what is logged (default: info).
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    root: Root,

    /// Folder of the sockets
    #[arg(long, env = "LMDB_IMAGES_STATE", value_name = "DIR", default_value_os_t = default_state())]
    state: PathBuf,

    /// Stand in front of the containerd behind this socket: its clients then use containerd.sock in
    /// the folder of the sockets
    #[arg(long, env = "LMDB_IMAGES_CONTAINERD", value_name = "SOCKET")]
    containerd: Option<PathBuf>,

    /// Group that may use the sockets, by number
    #[arg(long, env = "LMDB_IMAGES_GID")]
    gid: Option<u32>,

    /// Connections to one socket at a time
    #[arg(long, env = "LMDB_IMAGES_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,

    /// Memory for large replies under way, of all connections together, in MiB
    #[arg(long, env = "LMDB_IMAGES_REPLY_BUDGET", value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..4096))]
    reply_budget: u32,
}

impl Serve {
    /// Runs the daemon until it is told to stop.
    pub fn run(self) -> Result<()> {
        process::raise_open_files();
        let config = Config {
            root: self.root.root,
            state: self.state,
            containerd: self.containerd,
            gid: self.gid,
            limits: Limits { connections: self.max_connections, ..Limits::default() },
            reply_budget: self.reply_budget << 20,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("starting: {e}")))?;
        let served = runtime.block_on(serve(&config));
        // Nothing that still runs holds the store: what is left are connections past their time.
        runtime.shutdown_background();
        served
    }
}

async fn serve(config: &Config) -> Result<()> {
    let mut signals = Signals::listen()?;
    let daemon = Daemon::start(config).await?;
    log::info!(
        "serving {} on {} and {}",
        config.root.display(),
        daemon.grpc().display(),
        daemon.ttrpc().display()
    );
    if let Some(whole) = daemon.whole() {
        log::info!("in front of containerd on {}", whole.display());
    }
    log::info!("{}: stopping", signals.next().await);
    tokio::select! {
        () = daemon.stop() => log::info!("stopped"),
        signal = signals.next() => log::warn!("{signal} again: stopping at once"),
    }
    Ok(())
}
