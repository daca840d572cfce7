//! Fills all bounds of memory at once: their sum must stay within the stated one.

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{
    Request, create_image, get_image, image, list_images, publish, restless, subscribe,
};
use super::{Attack, calls};

pub const ATTACKS: &[Attack] = &[calls("grpc: all bounds of memory at once", || Plan {
    before: vec![
        create_image(image("large", 1, 1, 15 << 20)),
        create_image(image(&restless(500_000), 1, 1, 0)),
    ],
    loads: vec![
        // Replies.
        load(8, 8, false, |_, _| get_image("large")),
        // Requests, and changes under way.
        load(8, 2, true, |n, _| create_image(image(&format!("other-{}", n % 2), 1, 1, 15 << 20))),
        load(8, 2, true, |n, _| create_image(image(&format!("labels-{}", n % 2), 60_000, 20, 0))),
        // Filters of subscriptions: each pattern takes some hundred KiB.
        load(4, 15, false, |n, _| subscribe(vec![format!("topic~=\"\\\\pL{{15}}{n}\"")])),
        // Events that wait for subscribers which do not read.
        load(4, 10, false, |_, _| subscribe(Vec::new())),
        load(2, 16, true, |_, _| publish("a".into(), 60, 1000)),
        // Filters that run.
        load(4, 8, true, |n, _| {
            list_images(vec![format!("name~=\"a[ab]{{900}}\\\\pL{{150}}{n}\"")])
        }),
    ],
})];

fn load(
    connections: usize,
    in_flight: usize,
    reads: bool,
    request: fn(u64, &Parameters) -> Request,
) -> Load {
    let (protocol, parameters) = (Protocol::Grpc, Parameters::default());
    Load { protocol, connections, in_flight, reads, request, parameters }
}
