//! The destination of a shipper's reports, and counters of what was sent.

use tokio::time::Instant;

use crate::clock;
use crate::fleet::nats::{address::Nats, publish::Publisher};
use crate::fleet::postgres::Reporter;
use crate::fleet::report::{Answer, NodeReport};
use crate::fleet::target::Postgres;
use crate::fleet::tls::Certificates;
use crate::metrics::ship::Shipped;
use crate::model::Result;

/// The destination of reports.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To the database.
    Postgres(Box<Reporter>),
    /// To the stream that `fleet collect` reads.
    Nats(Box<Publisher>),
}

impl Destination {
    /// The destination at the address of `--to`.
    pub(crate) fn parse(url: &str, certificates: Certificates) -> Result<Self> {
        Ok(if url.starts_with("nats://") {
            Self::Nats(Box::new(Publisher::new(Nats::parse(url, certificates)?)))
        } else {
            Self::Postgres(Box::new(Reporter::new(Postgres::parse(url, certificates)?)))
        })
    }
}

/// Sends reports and counts them.
#[derive(Debug)]
pub(crate) struct Shipment {
    destination: Destination,
    shipped: Shipped,
}

impl Shipment {
    /// Sends reports to the destination, and counts them in `shipped`.
    pub(crate) fn new(destination: Destination, shipped: Shipped) -> Self {
        Self { destination, shipped }
    }

    /// Sends a report, and returns the answer.
    pub(crate) async fn send(&mut self, report: &NodeReport) -> Result<Answer> {
        let started = Instant::now();
        let answer = match &mut self.destination {
            Destination::Postgres(reporter) => reporter.send(report).await,
            Destination::Nats(publisher) => publisher.send(report).await,
        };
        self.shipped.seconds.observe(started.elapsed().as_secs_f64());
        match &answer {
            Ok(answer) => self.shipped.reported(answer.seq, clock::now().seconds),
            Err(_) => {
                self.shipped.failures.inc();
            }
        }
        answer
    }

    /// Waits until the database corrects an answer: through NATS, [`send`](Self::send) returns the answer that the
    /// stream predicts, and the database answers later.
    pub(crate) async fn correction(&mut self) {
        match &mut self.destination {
            Destination::Postgres(_) => std::future::pending().await,
            Destination::Nats(publisher) => publisher.correction().await,
        }
    }

    /// The counters.
    pub(crate) fn shipped(&self) -> &Shipped {
        &self.shipped
    }

    /// Closes the connection after a failure.
    pub(crate) fn close(&mut self) {
        match &mut self.destination {
            Destination::Postgres(reporter) => reporter.close(),
            Destination::Nats(publisher) => publisher.close(),
        }
    }

    /// Closes the connection to PostgreSQL while there is nothing to report: there each connection is a process. A
    /// connection to NATS stays open, because it costs the server little.
    pub(crate) fn close_idle(&mut self) {
        match &mut self.destination {
            Destination::Postgres(reporter) => reporter.close(),
            Destination::Nats(_) => {}
        }
    }

    /// Whether there is a connection that [`close_idle`](Self::close_idle) would close.
    pub(crate) fn can_close_idle(&self) -> bool {
        match &self.destination {
            Destination::Postgres(reporter) => reporter.is_connected(),
            Destination::Nats(_) => false,
        }
    }
}
