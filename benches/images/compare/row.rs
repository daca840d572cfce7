//! A row of the table that compares the servers, and the goal of the row.

use serde_json::{Value, json};

use crate::burst::{Burst, median};
use crate::report::{Unit, cell, times};

/// A row of the table: containerd, lmdb-images over gRPC, lmdb-images over ttrpc.
pub struct Row {
    pub operation: String,
    pub clients: usize,
    pub unit: Unit,
    values: [Vec<f64>; 3],
    /// The processor time of the server, and the number of calls that took it.
    cpu: [(f64, usize); 3],
    goal: Option<Goal>,
}

/// The goal of a row, for gRPC.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The factor by which lmdb-images must be better than containerd.
    Ratio(f64),
    /// That factor, and the most processor time as a share of containerd's.
    RatioAndCpu(f64, f64),
    /// The largest accepted value.
    AtMost(f64),
}

impl Row {
    pub fn new(
        operation: impl Into<String>,
        clients: usize,
        unit: Unit,
        goal: Option<Goal>,
    ) -> Self {
        let values = Default::default();
        Self { operation: operation.into(), clients, unit, values, cpu: Default::default(), goal }
    }

    pub fn add(&mut self, column: usize, value: f64, burst: Option<&Burst>) {
        if let Some(values) = self.values.get_mut(column) {
            values.push(value);
        }
        if let (Some(burst), Some((seconds, calls))) = (burst, self.cpu.get_mut(column)) {
            *seconds += burst.cpu.as_secs_f64();
            *calls += burst.calls;
        }
    }

    fn medians(&self) -> [Option<f64>; 3] {
        self.values.each_ref().map(|all| (!all.is_empty()).then(|| median(all.clone())))
    }

    fn cpus(&self) -> [Option<f64>; 3] {
        self.cpu.map(|(seconds, calls)| (calls > 0).then(|| seconds / calls as f64))
    }

    fn ratio(&self) -> Option<f64> {
        let [theirs, ours, _] = self.medians();
        Some(self.unit.ratio(theirs?, ours?))
    }

    pub fn missed(&self) -> Option<String> {
        let [_, ours, _] = self.medians();
        let [their_cpu, our_cpu, _] = self.cpus();
        let row = format!("{}, clients {}", self.operation, self.clients);
        let less = |least: f64| {
            let ratio = self.ratio()?;
            (ratio < least).then(|| format!("{row}: {}, wanted {}", times(ratio), times(least)))
        };
        match self.goal? {
            Goal::Ratio(least) => less(least),
            Goal::RatioAndCpu(least, part) => less(least).or_else(|| {
                let found = our_cpu? / their_cpu?;
                (found > part)
                    .then(|| format!("{row}: {found:.2} of the processor time, wanted {part:.2}"))
            }),
            Goal::AtMost(most) => {
                let ours = ours?;
                (ours > most).then(|| {
                    format!("{row}: {}, wanted {}", self.unit.show(ours), self.unit.show(most))
                })
            }
        }
    }

    pub fn cells(&self) -> Vec<String> {
        let clients = if self.clients == 0 { String::new() } else { self.clients.to_string() };
        let mut cells = vec![self.operation.clone(), clients];
        cells.extend(self.medians().map(|value| cell(value, |v| self.unit.show(v))));
        cells.push(cell(self.ratio(), times));
        cells.extend(self.cpus().map(|value| cell(value, |v| Unit::Time.show(v))));
        cells
    }

    pub fn json(&self) -> Value {
        let [containerd, grpc, ttrpc] = self.medians();
        let cpu = self.cpus();
        let unit = match self.unit {
            Unit::Rate => "calls/s",
            Unit::Time => "s",
            Unit::Bytes => "bytes",
        };
        json!({
            "operation": self.operation, "clients": self.clients, "unit": unit,
            "containerd": containerd, "grpc": grpc, "ttrpc": ttrpc, "ratio": self.ratio(),
            "cpu_seconds_a_call": cpu, "turns": self.values,
        })
    }
}
