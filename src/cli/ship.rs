//! `lmdb-images ship`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tokio::sync::watch;

use super::block_on;
use super::bounded::Bounded;
use super::logging::{self, Filter, Format};
use super::paths::default_state;
use crate::admin::file;
use crate::daemon::metrics::Address;
use crate::daemon::process::Signals;
use crate::daemon::sockets::Access;
use crate::daemon::systemd::notify;
use crate::fleet::catalog::Catalog;
use crate::fleet::ship::{Identity, Shipper, State};
use crate::fleet::target::{Certificates, Postgres};
use crate::fleet::tls;
use crate::metrics::ship::Shipped;
use crate::model::{Error, Result};
use crate::transport::metrics_http;

/// Largest size of the settings file in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Default of the heartbeat interval in seconds.
const DEFAULT_HEARTBEAT_SECONDS: u64 = 300;

/// Report this node's images, and each change of them, to the PostgreSQL of a fleet
///
/// Reads the daemon's catalogue on readonly.sock, and needs no other right on this node. Which node it is,
/// the server knows from the role that logs in, so from the certificate. It keeps no state: the server
/// knows what it has, and after any interruption the reports go on from there. Runs until SIGTERM or SIGINT.
#[derive(Args)]
pub struct Ship {
    /// File with these settings, in TOML: the flags are its keys
    #[arg(long, env = "LMDB_IMAGES_SHIP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

/// Settings from one source.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Settings {
    /// Where to report: postgres://NODE@HOST/DATABASE
    #[arg(long, env = "LMDB_IMAGES_SHIP_TO", value_name = "URL")]
    to: Option<String>,

    /// Socket of the daemon [default: readonly.sock in its folder of sockets]
    #[arg(long, short, env = "LMDB_IMAGES_ADDRESS", value_name = "SOCKET")]
    address: Option<PathBuf>,

    /// Certificate of this node, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its key, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    /// Certificates of the authorities of the server's, in PEM [default: the system's]
    #[arg(long, env = "LMDB_IMAGES_FLEET_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// How often to report without a change, in seconds [default: 300]
    #[arg(long, env = "LMDB_IMAGES_SHIP_HEARTBEAT", value_name = "SECONDS")]
    heartbeat: Option<Bounded<1, 86_400>>,

    /// Name of this machine in the reports, only for people [default: the host's name]
    #[arg(long, env = "LMDB_IMAGES_SHIP_MACHINE", value_name = "NAME")]
    machine: Option<String>,

    /// Serve metrics in Prometheus format here: a unix socket (a path that begins with /) or a loopback
    /// address with a port
    #[arg(long, env = "LMDB_IMAGES_SHIP_METRICS_ADDRESS", value_name = "ADDRESS")]
    metrics_address: Option<Address>,

    /// Level of the log, as for `serve`
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    log: Option<Filter>,

    /// Format of the log: text, or json for one object per line
    #[arg(
        long,
        env = "LMDB_IMAGES_LOG_FORMAT",
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    log_format: Option<Format>,
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::InvalidArgument(format!("--config: {why}"));
        let (_, text) = file::read_text(path, MAX_FILE_BYTES)?
            .ok_or_else(|| wrong(format!("there is no file {}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            // Not the text around it: it may be a password.
            wrong(format!("{}: {}", path.display(), e.message().replace('\n', " ")))
        })
    }

    /// These, and what they leave out from a file.
    fn or(self, file: Self) -> Self {
        Self {
            to: self.to.or(file.to),
            address: self.address.or(file.address),
            cert: self.cert.or(file.cert),
            key: self.key.or(file.key),
            ca: self.ca.or(file.ca),
            heartbeat: self.heartbeat.or(file.heartbeat),
            machine: self.machine.or(file.machine),
            metrics_address: self.metrics_address.or(file.metrics_address),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
        }
    }
}

impl Ship {
    /// Reports until a signal stops it.
    pub fn run(self) -> Result<()> {
        let file =
            self.config.as_deref().map_or_else(|| Ok(Settings::default()), Settings::read)?;
        let settings = self.settings.or(file);
        logging::start(
            &settings.log.clone().unwrap_or_default(),
            settings.log_format.unwrap_or_default(),
        );
        block_on(ship(settings))
    }
}

async fn ship(settings: Settings) -> Result<()> {
    let to = settings.to.ok_or_else(|| {
        Error::InvalidArgument("report where? Give --to postgres://NODE@HOST/DATABASE".into())
    })?;
    let certificates = Certificates { cert: settings.cert, key: settings.key, ca: settings.ca };
    if certificates != Certificates::default() {
        // What is wrong with the files is said now, not after some attempts.
        tls::config(&certificates)?;
    }
    let to = Postgres::parse(&to, certificates)?;
    let socket = settings.address.unwrap_or_else(|| default_state().join("readonly.sock"));
    let identity = Identity {
        machine: settings.machine.or_else(|| kernel_text("hostname")).unwrap_or_default(),
        boot: kernel_text("random/boot_id"),
    };
    let heartbeat = settings.heartbeat.map_or(DEFAULT_HEARTBEAT_SECONDS, |n| n.get().into());
    let shipped = Shipped::default();
    let (state, states) = watch::channel(State::default());
    let shipper = Shipper::new(
        Catalog::new(&socket),
        to,
        identity,
        Duration::from_secs(heartbeat),
        shipped.clone(),
        state,
    );

    let mut signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    // The guard removes a unix socket at the end.
    let mut _socket = None;
    if let Some(address) = settings.metrics_address {
        let access = Access { mode: 0o660, uid: None, gid: None };
        let (listener, guard, at) = address.listen(access).await?;
        _socket = guard;
        log::info!("metrics on {at}");
        let text = move || {
            let shipped = shipped.clone();
            async move { Ok(shipped.text()) }
        };
        tokio::spawn(metrics_http::run(listener, stopped, text));
    }
    log::info!("reporting what {} has", socket.display());
    notify::ready("starting").await;
    tokio::spawn(notify_states(states));
    tokio::select! {
        () = shipper.run() => {}
        signal = signals.next() => log::info!("{signal}: stopped"),
    }
    let _ = stop.send(true);
    Ok(())
}

/// Shows in systemd's status, and once in the log, that reports are answered again.
async fn notify_states(mut states: watch::Receiver<State>) {
    let mut was_reporting = false;
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        if state.is_reporting && !was_reporting {
            log::info!("{}", state.text);
        }
        was_reporting = state.is_reporting;
        notify::status(state.text).await;
    }
}

/// A value of the kernel's, below `/proc/sys/kernel`.
fn kernel_text(name: &str) -> Option<String> {
    let found = file::read_text(&Path::new("/proc/sys/kernel").join(name), 4096);
    let (_, text) = found.ok().flatten()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
