//! `lmdb-images serve`.

use clap::{ArgMatches, Args};
use futures_util::FutureExt;

use super::logging;
use super::settings::{self, DaemonSettings};
use super::settings_file::File;
use crate::daemon::process::{self, Signals};
use crate::daemon::systemd::activation::ActivatedSockets;
use crate::daemon::systemd::notify;
use crate::daemon::{Config, Daemon};
use crate::model::{Context, Result};

/// Serve image names from the store, over gRPC (images.sock) and ttrpc (images.sock.ttrpc)
///
/// Runs until SIGTERM, SIGINT or SIGHUP, then lets the calls in flight end and exits with 0. A second signal
/// stops at once.
#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    file: File,

    #[command(flatten)]
    settings: DaemonSettings,
}

impl Serve {
    /// Runs the daemon until a signal stops it. `matches` are those of the containerd command line.
    pub(crate) fn run(self, matches: &ArgMatches) -> Result<()> {
        let settings = self.settings.merged(&self.file.read()?)?;
        let log = settings.log.clone().unwrap_or_default();
        let format = settings.log_format.unwrap_or_default();
        let config = settings::checked(settings, settings::innermost(matches), &self.file.path())?;
        logging::start(&log, format);
        process::raise_open_files();
        // Must run before any thread starts, because it changes the environment.
        let passed = ActivatedSockets::from_env()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .or_internal("starting")?;
        let served = runtime.block_on(serve(&config, passed).boxed_local());
        // The remaining tasks are connections past the drain timeout. None of them holds the store.
        runtime.shutdown_background();
        served
    }
}

async fn serve(config: &Config, passed: ActivatedSockets) -> Result<()> {
    let mut signals = Signals::listen()?;
    let daemon = Daemon::start_with(config, passed).await?;
    log::info!(
        "serving {} on {} and {}",
        config.root.display(),
        daemon.grpc().display(),
        daemon.ttrpc().display()
    );
    if let Some(containerd) = daemon.containerd_socket() {
        log::info!("in front of containerd on {}", containerd.display());
    }
    if let Some(readonly) = daemon.readonly() {
        log::info!("read-only on {}", readonly.display());
    }
    if let Some(metrics) = daemon.metrics() {
        log::info!("metrics on {metrics}");
    }
    notify::ready(daemon.status()).await;
    // Not inside the macro, which does not evaluate its arguments when the level is off.
    let signal = signals.next().await;
    log::info!("{signal}: stopping");
    notify::stopping().await;
    tokio::select! {
        () = daemon.stop() => log::info!("stopped"),
        signal = signals.next_after_a_while() => log::warn!("{signal} again: stopping at once"),
    }
    Ok(())
}
