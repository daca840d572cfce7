//! Transfers: one request writes a record for each of its names.

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{create_image, image, tags};
use super::{Attack, calls};

pub const ATTACKS: &[Attack] = &[
    calls("grpc: tags of 1,000 names with 100 labels", || plan(1000, 100, 100)),
    calls("grpc: tags of 500 names with 60,000 bytes of labels", || plan(500, 60, 1000)),
    calls("grpc: tags of 10,000 names with 50,000 labels", || plan(10_000, 50_000, 1)),
];

fn plan(names: usize, labels: usize, length: usize) -> Plan {
    let parameters = Parameters { count: labels, length, pattern: names };
    let request = |_, p: &Parameters| tags("tagged", p.pattern, p.count, p.length);
    let load = Load {
        protocol: Protocol::Grpc,
        connections: 8,
        in_flight: 8,
        reads: true,
        request,
        parameters,
    };
    Plan { before: vec![create_image(image("tagged", 1, 1, 0))], loads: vec![load] }
}
