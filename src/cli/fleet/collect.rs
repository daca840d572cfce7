//! `lmdb-images fleet collect`.

use std::path::PathBuf;

use clap::Args;
use tokio::sync::watch;

use super::certificates::CertificateArgs;
use super::running::until_signal;
use crate::cli::block_on;
use crate::cli::bounded::Bounded;
use crate::cli::logging::{self, Filter, Format};
use crate::daemon::metrics::Address;
use crate::fleet::nats::address::Nats;
use crate::fleet::nats::collect::Collector;
use crate::fleet::ship::ReportingState;
use crate::fleet::target::Postgres;
use crate::fleet::tls::Certificates;
use crate::metrics::collect::Collected;
use crate::model::Result;

/// Copy the reports that `ship --to nats://…` publishes into the PostgreSQL of a fleet
///
/// Makes the stream LMDB_IMAGES_FLEET if it does not exist. The collector acknowledges a report after the
/// database has committed it. The collector has no state of its own: you may kill it at any moment, and run
/// several at once. Runs until SIGTERM, SIGINT or SIGHUP.
#[derive(Args)]
pub(crate) struct Collect {
    /// NATS server with the reports: nats://USER@HOST:PORT
    #[arg(long, env = "LMDB_IMAGES_COLLECT_FROM", value_name = "URL")]
    from: String,

    /// PostgreSQL server that gets the reports: postgres://ROLE@HOST/DATABASE, with a role that is a member of
    /// fleet_collector
    #[arg(long, env = "LMDB_IMAGES_COLLECT_TO", value_name = "URL")]
    to: String,

    /// Number of NATS servers that keep the stream [default: 1 for a new stream]
    #[arg(long, env = "LMDB_IMAGES_COLLECT_REPLICAS", value_name = "N")]
    replicas: Option<Bounded<1, 5>>,

    #[command(flatten)]
    certificates: CertificateArgs,

    /// Certificate for NATS, in PEM [default: --cert]
    #[arg(long, env = "LMDB_IMAGES_COLLECT_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,

    /// Private key of the certificate for NATS, in PEM [default: --key]
    #[arg(long, env = "LMDB_IMAGES_COLLECT_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,

    /// CA certificates that verify the certificate of the NATS server, in PEM [default: --ca]
    #[arg(long, env = "LMDB_IMAGES_COLLECT_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,

    /// Address that serves metrics in Prometheus format: a unix socket (a path that begins with /) or a
    /// loopback address with a port. Another address needs the prefix exposed:, such as exposed:0.0.0.0:PORT,
    /// and a firewall that guards the port
    #[arg(long, env = "LMDB_IMAGES_COLLECT_METRICS_ADDRESS", value_name = "ADDRESS")]
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

impl Collect {
    /// Collects until a signal stops it.
    pub(crate) fn run(self) -> Result<()> {
        logging::start(&self.log.clone().unwrap_or_default(), self.log_format.unwrap_or_default());
        block_on(self.collect())
    }

    async fn collect(self) -> Result<()> {
        let for_postgres = Certificates::from(self.certificates);
        let for_nats = Certificates {
            cert: self.nats_cert.or_else(|| for_postgres.cert.clone()),
            key: self.nats_key.or_else(|| for_postgres.key.clone()),
            ca: self.nats_ca.or_else(|| for_postgres.ca.clone()),
        };
        let from = Nats::parse(&self.from, for_nats)?;
        let to = Postgres::parse(&self.to, for_postgres)?;
        let replicas = self.replicas.and_then(|n| usize::try_from(n.get()).ok());
        let collected = Collected::default();
        let (state, states) = watch::channel(ReportingState::default());
        log::info!("collecting from {from} to {to}");
        let collector = Collector::new(from, to, replicas, collected.clone(), state);
        until_signal(self.metrics_address, move || collected.text(), states, collector.run()).await
    }
}
