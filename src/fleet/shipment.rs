//! Where a shipper's reports go: one interface to PostgreSQL and NATS.

use tokio::time::Instant;

use crate::clock;
use crate::fleet::postgres::Reporter;
use crate::fleet::report::{Answer, Report};
use crate::fleet::target::Target;
use crate::metrics::ship::Shipped;
use crate::model::{Error, Result};

/// Where reports go, counted.
#[derive(Debug)]
pub struct Shipment {
    to: Sink,
    shipped: Shipped,
}

#[derive(Debug)]
enum Sink {
    Postgres(Reporter),
}

impl Shipment {
    /// Reports to a target, counted in `shipped`.
    pub fn new(target: Target, shipped: Shipped) -> Result<Self> {
        let to = match target {
            Target::Postgres(postgres) => Sink::Postgres(Reporter::node(*postgres)),
            Target::Nats(_) => return Err(Error::Unimplemented("ship --to nats://".into())),
        };
        Ok(Self { to, shipped })
    }

    /// Sends a report, and returns the answer.
    pub async fn send(&mut self, report: &Report) -> Result<Answer> {
        let started = Instant::now();
        let answer = match &mut self.to {
            Sink::Postgres(reporter) => reporter.send(report).await,
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

    /// The counters.
    pub fn shipped(&self) -> &Shipped {
        &self.shipped
    }

    /// Closes the connection until the next report.
    pub fn rest(&mut self) {
        match &mut self.to {
            Sink::Postgres(reporter) => reporter.rest(),
        }
    }

    /// Whether there is no connection.
    pub fn is_resting(&self) -> bool {
        match &self.to {
            Sink::Postgres(reporter) => reporter.is_resting(),
        }
    }
}
