//! Filters that take long to read, to compile or to match, and the snapshots that are held meanwhile.

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{
    Request, create_image, create_lease, image, list_images, list_leases, plugins, restless,
    update_image,
};
use super::{Attack, calls, reads};

pub const ATTACKS: &[Attack] = &[
    reads("grpc: slow patterns on long names, with writers beside", || slow(Protocol::Grpc)),
    reads("ttrpc: slow patterns on long names, with writers beside", || slow(Protocol::Ttrpc)),
    reads("grpc: lists of all, with writers beside", || Plan {
        before: long_names(),
        loads: vec![load(Protocol::Grpc, 16, |_, _| list_images(Vec::new())), writers(), writers()],
    }),
    calls("alone: Leases/List with 1,000 patterns", || Plan {
        before: (0..200).map(|n| create_lease(&format!("l{n}"), 10, 4000)).collect(),
        loads: vec![load(Protocol::Grpc, 16, |n, _| {
            let pattern = |m| format!("labels.l1~=\"a[ab]{{50}}[c-z]{n}x{m}\"");
            list_leases((0..1000).map(pattern).collect())
        })],
    }),
    calls("alone: Plugins with 1,000 patterns", || Plan {
        before: Vec::new(),
        loads: vec![load(Protocol::Grpc, 16, |n, _| {
            plugins((0..1000).map(|m| format!("id~=\"a[ab]{{100}}[c-z]{n}x{m}\"")).collect())
        })],
    }),
    calls("grpc: patterns that do not compile", || wrong(Protocol::Grpc)),
    calls("ttrpc: patterns that do not compile", || wrong(Protocol::Ttrpc)),
];

/// Images whose names are long, and in no order.
fn long_names() -> Vec<Request> {
    (0..8).map(|n| create_image(image(&format!("{}{n}", restless(500_000)), 1, 1, 0))).collect()
}

fn slow(protocol: Protocol) -> Plan {
    let list = |n, _: &Parameters| list_images(vec![format!("name~=\"a[ab]{{999}}[c-z]{n}\"")]);
    Plan { before: long_names(), loads: vec![load(protocol, 16, list), writers()] }
}

/// Records of 64 KiB, always the same 20: they take no more room by being written again.
fn writers() -> Load {
    load(Protocol::Grpc, 2, |n, _| {
        let name = format!("written-{}", n / 20 % 20);
        let written = image(&name, 1, 8, 64_000 + (n % 100) as usize);
        if n < 400 { create_image(written) } else { update_image(written, Vec::new()) }
    })
}

fn wrong(protocol: Protocol) -> Plan {
    let list = |n, _: &Parameters| {
        let filler = "x".repeat(10_000);
        list_images((0..100).map(|m| format!("name~=\"({n} {m} {filler}\"")).collect())
    };
    Plan { before: Vec::new(), loads: vec![load(protocol, 16, list)] }
}

fn load(protocol: Protocol, connections: usize, request: fn(u64, &Parameters) -> Request) -> Load {
    let parameters = Parameters::default();
    Load { protocol, connections, in_flight: 4, reads: true, request, parameters }
}
