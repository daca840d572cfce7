//! Expiring records: very many at once, and calls that wait until they are removed.

use jiff::{Span, Timestamp};

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{Request, delete_image, expiring_image, expiring_lease};
use super::{Attack, calls};

pub const ATTACKS: &[Attack] = &[
    calls("alone: 20,000 images and leases expire at once", || Plan {
        before: many(),
        loads: vec![load(8, |n, _| expiring(n))],
    }),
    calls("alone: 300 images with names of 1 MiB expire at once", || {
        let expires = soon();
        let image = |n| expiring_image(&format!("{}-{n}", "x".repeat(1 << 20)), &expires);
        Plan { before: (0..300).map(image).collect(), loads: vec![load(2, |n, _| expiring(n))] }
    }),
    calls("alone: Delete with sync, beside much that expires", || Plan {
        before: many(),
        loads: vec![load(4, |n, _| expiring(n)), load(8, |_, _| delete_image("none", true))],
    }),
];

fn soon() -> String {
    (Timestamp::now() + Span::new().seconds(2)).to_string()
}

/// They expire together, two seconds after the first is made.
fn many() -> Vec<Request> {
    let expires = soon();
    let image = |n| expiring_image(&format!("expiring-{n}"), &expires);
    let lease = |n| expiring_lease(&format!("expiring-{n}"), &expires);
    (0..10_000).flat_map(|n| [image(n), lease(n)]).collect()
}

/// One that has expired already, or will in a second.
fn expiring(n: u64) -> Request {
    let expires = (Timestamp::now() + Span::new().seconds((n % 2) as i64)).to_string();
    let name = format!("soon-{n}");
    if n % 4 < 2 { expiring_image(&name, &expires) } else { expiring_lease(&name, &expires) }
}

fn load(connections: usize, request: fn(u64, &Parameters) -> Request) -> Load {
    let (protocol, parameters) = (Protocol::Grpc, Parameters::default());
    Load { protocol, connections, in_flight: 8, reads: true, request, parameters }
}
