//! `lmdb-images serve`.

use clap::{ArgMatches, Args};

use super::logging;
use super::settings::{self, File, Settings};
use crate::daemon::process::{self, Signals};
use crate::daemon::systemd::activation::ActivatedSockets;
use crate::daemon::systemd::notify;
use crate::daemon::{Config, Daemon};
use crate::model::{Error, Result};

/// Serve image names from the store, over gRPC (images.sock) and ttrpc (images.sock.ttrpc)
///
/// Runs until SIGTERM or SIGINT, then lets the calls in flight end and exits with 0; a second
/// signal does not wait for them.
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    file: File,

    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// Runs the daemon until it is told to stop.
    ///
    /// `matches` are those of the whole command line.
    pub fn run(self, matches: &ArgMatches) -> Result<()> {
        let settings = self.settings.merged(&self.file.read()?)?;
        let log = settings.log.clone().unwrap_or_default();
        let format = settings.log_format.unwrap_or_default();
        let config = settings::checked(settings, settings::innermost(matches), &self.file)?;
        logging::start(&log, format);
        process::raise_open_files();
        // Before there are threads: it changes the environment.
        let passed = ActivatedSockets::from_env()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("starting: {e}")))?;
        let served = runtime.block_on(serve(&config, passed));
        // Nothing that still runs holds the store: what is left are connections past their time.
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
    if let Some(whole) = daemon.containerd_socket() {
        log::info!("in front of containerd on {}", whole.display());
    }
    if let Some(readonly) = daemon.readonly() {
        log::info!("for reading only on {}", readonly.display());
    }
    if let Some(metrics) = daemon.metrics() {
        log::info!("metrics on {metrics}");
    }
    notify::ready(daemon.status()).await;
    // Not in the macro: what is not logged is not evaluated.
    let signal = signals.next().await;
    log::info!("{signal}: stopping");
    notify::stopping().await;
    tokio::select! {
        () = daemon.stop() => log::info!("stopped"),
        signal = signals.next() => log::warn!("{signal} again: stopping at once"),
    }
    Ok(())
}
