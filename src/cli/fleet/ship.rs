//! `lmdb-images ship`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tokio::sync::watch;

use super::running::until_signal;
use crate::admin::file;
use crate::cli::block_on;
use crate::cli::bounded::Bounded;
use crate::cli::logging::{self, Filter, Format};
use crate::cli::paths::default_state;
use crate::daemon::metrics::Address;
use crate::fleet::catalog::Catalog;
use crate::fleet::ship::{Identity, ReportingState, Shipper};
use crate::fleet::shipment::Destination;
use crate::fleet::tls::{self, Certificates};
use crate::metrics::ship::Shipped;
use crate::model::{Error, Result};

/// Largest size of the settings file in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Default of the heartbeat interval in seconds.
const DEFAULT_HEARTBEAT_SECONDS: u64 = 300;

/// Report this node's images, and each change of them, to the PostgreSQL of a fleet
///
/// Reads the daemon's catalogue on readonly.sock, and needs no other right on this node. The server knows
/// the node by the database role that logs in, so by its certificate. `ship` keeps no state on the node: the
/// server knows the last report that it stored, and after any interruption `ship` continues from there. Runs
/// until SIGTERM, SIGINT or SIGHUP. With nats:// the reports go to a NATS JetStream stream, and `fleet collect`
/// copies them to the database.
#[derive(Args)]
pub(crate) struct Ship {
    /// TOML file with these settings: each key has the name of a flag
    #[arg(long, env = "LMDB_IMAGES_SHIP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: ShipSettings,
}

/// Settings from one source: the flags and environment, or the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ShipSettings {
    /// Server that gets the reports: postgres://NODE@HOST/DATABASE, or nats://NODE@HOST:PORT
    #[arg(long, env = "LMDB_IMAGES_SHIP_TO", value_name = "URL")]
    to: Option<String>,

    /// Socket of the daemon [default: readonly.sock in the daemon's state folder]
    #[arg(long, short, env = "LMDB_IMAGES_ADDRESS", value_name = "SOCKET")]
    address: Option<PathBuf>,

    /// Certificate of this node, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Private key of this node's certificate, in PEM
    #[arg(long, env = "LMDB_IMAGES_FLEET_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    /// CA certificates that verify the server's certificate, in PEM [default: the system's]
    #[arg(long, env = "LMDB_IMAGES_FLEET_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Seconds between two reports when nothing changes [default: 300]
    #[arg(long, env = "LMDB_IMAGES_SHIP_HEARTBEAT", value_name = "SECONDS")]
    heartbeat: Option<Bounded<1, 86_400>>,

    /// Name of this machine in the reports, for human readers only [default: the host name]
    #[arg(long, env = "LMDB_IMAGES_SHIP_MACHINE", value_name = "NAME")]
    machine: Option<String>,

    /// Address that serves metrics in Prometheus format: a unix socket (a path that begins with /) or a
    /// loopback address with a port. Another address needs the prefix exposed:, such as exposed:0.0.0.0:PORT,
    /// and a firewall that guards the port
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

impl ShipSettings {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::InvalidArgument(format!("--config: {why}"));
        let (_, text) = file::read_text(path, MAX_FILE_BYTES)?
            .ok_or_else(|| wrong(format!("there is no file {}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            // The message only: toml's full error quotes lines of the file, which may hold a password.
            wrong(format!("{}: {}", path.display(), e.message().replace('\n', " ")))
        })
    }

    /// Takes each setting from `self`, or from `file` if `self` does not have it.
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
    /// Reports until SIGTERM, SIGINT or SIGHUP arrives.
    pub(crate) fn run(self) -> Result<()> {
        let file = self
            .config
            .as_deref()
            .map_or_else(|| Ok(ShipSettings::default()), ShipSettings::read)?;
        let settings = self.settings.or(file);
        logging::start(
            &settings.log.clone().unwrap_or_default(),
            settings.log_format.unwrap_or_default(),
        );
        block_on(ship(settings))
    }
}

async fn ship(settings: ShipSettings) -> Result<()> {
    let to = settings.to.ok_or_else(|| {
        Error::InvalidArgument(
            "no server is named: give --to postgres://NODE@HOST/DATABASE or --to nats://NODE@HOST"
                .into(),
        )
    })?;
    let certificates = Certificates { cert: settings.cert, key: settings.key, ca: settings.ca };
    if certificates != Certificates::default() {
        // Wrong certificate files are an error at the start. Otherwise each attempt to connect would fail.
        tls::config(&certificates)?;
    }
    let destination = Destination::parse(&to, certificates)?;
    let socket = settings.address.unwrap_or_else(|| default_state().join("readonly.sock"));
    let identity = Identity {
        machine: settings.machine.or_else(|| kernel_text("hostname")).unwrap_or_default(),
        boot: kernel_text("random/boot_id"),
    };
    let heartbeat = settings.heartbeat.map_or(DEFAULT_HEARTBEAT_SECONDS, |n| n.get().into());
    let shipped = Shipped::default();
    let (state, states) = watch::channel(ReportingState::default());
    let shipper = Shipper::new(
        Catalog::new(&socket),
        destination,
        identity,
        Duration::from_secs(heartbeat),
        shipped.clone(),
        state,
    );

    log::info!("reporting what {} has", socket.display());
    until_signal(settings.metrics_address, move || shipped.text(), states, shipper.run()).await
}

/// Reads the kernel setting `name` from `/proc/sys/kernel`.
fn kernel_text(name: &str) -> Option<String> {
    let found = file::read_text(&Path::new("/proc/sys/kernel").join(name), 4096);
    let (_, text) = found.ok().flatten()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
