//! Events: what waits for subscribers, and what their filters take.

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{forward, publish, restless, subscribe};
use super::{Attack, calls};

pub const ATTACKS: &[Attack] = &[
    calls("grpc: 200 subscriptions with large patterns", || {
        let request = |n, p: &Parameters| {
            let pattern = format!("topic~=\"(?i)[a-z]{{{}}}{n}\"", p.length);
            subscribe((0..p.count).map(|_| pattern.clone()).collect())
        };
        Plan { before: Vec::new(), loads: vec![subscribers(request, 1, 900), publishers(1, 100)] }
    }),
    calls("grpc: 120 subscribers that do not read, large events", || {
        let all = |_, _: &Parameters| subscribe(Vec::new());
        Plan { before: Vec::new(), loads: vec![subscribers(all, 0, 0), publishers(60, 1000)] }
    }),
    calls("ttrpc: 120 subscribers that do not read, events forwarded over ttrpc", || {
        let all = |_, _: &Parameters| subscribe(Vec::new());
        let mut publishers = publishers(60, 1000);
        publishers.protocol = Protocol::Ttrpc;
        publishers.request = |_, p| forward("a".into(), p.count, p.length);
        Plan { before: Vec::new(), loads: vec![subscribers(all, 0, 0), publishers] }
    }),
    calls("alone: subscriptions with slow filters", || {
        let request = |n, p: &Parameters| {
            subscribe(vec![format!("event.name~=\"a[ab]{{{}}}[c-z]{n}\"", p.length)])
        };
        let events = |_, p: &Parameters| publish(restless(p.length), 0, 0);
        let mut publishers = publishers(0, 60_000);
        publishers.request = events;
        Plan { before: Vec::new(), loads: vec![subscribers(request, 1, 500), publishers] }
    }),
];

fn subscribers(
    request: fn(u64, &Parameters) -> super::super::requests::Request,
    count: usize,
    length: usize,
) -> Load {
    let parameters = Parameters { count, length, pattern: 0 };
    Load {
        protocol: Protocol::Grpc,
        connections: 10,
        in_flight: 20,
        reads: false,
        request,
        parameters,
    }
}

/// Each event has that many labels of that length, or a name of that length.
fn publishers(count: usize, length: usize) -> Load {
    Load {
        protocol: Protocol::Grpc,
        connections: 2,
        in_flight: 16,
        reads: true,
        request: |_, p| publish("a".into(), p.count, p.length),
        parameters: Parameters { count, length, pattern: 0 },
    }
}
