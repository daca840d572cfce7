//! Where a shipper's reports go, counted.

use tokio::time::Instant;

use crate::clock;
use crate::fleet::postgres::Reporter;
use crate::fleet::report::{Answer, Report};
use crate::fleet::target::Postgres;
use crate::metrics::ship::Shipped;
use crate::model::Result;

/// Sends reports and counts them.
#[derive(Debug)]
pub struct Shipment {
    reporter: Reporter,
    shipped: Shipped,
}

impl Shipment {
    /// Reports to a PostgreSQL, counted in `shipped`.
    pub fn new(to: Postgres, shipped: Shipped) -> Self {
        Self { reporter: Reporter::new(to), shipped }
    }

    /// Sends a report, and returns the answer.
    pub async fn send(&mut self, report: &Report) -> Result<Answer> {
        let started = Instant::now();
        let answer = self.reporter.send(report).await;
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
        self.reporter.rest();
    }

    /// Whether there is no connection.
    pub fn is_resting(&self) -> bool {
        self.reporter.is_resting()
    }
}
