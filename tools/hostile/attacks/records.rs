//! Records as large as they may be, and lists of many of them.

use super::super::client::Protocol;
use super::super::load::{Load, Parameters, Plan};
use super::super::requests::{
    Request, add_resource, create_image, create_lease, create_namespace, get_image, image,
    list_images, list_leases, list_namespaces, list_resources, update_image,
};
use super::{Attack, calls};

pub const ATTACKS: &[Attack] = &[
    // A containerd takes 23 GiB for this: forwarded, these two would try containerd and not the daemon.
    calls("alone: Leases/List of 300 leases of 200 KiB", || Plan {
        before: (0..300).map(|n| create_lease(&n.to_string(), 50, 4000)).collect(),
        loads: vec![load(Protocol::Grpc, 64, true, |_, _| list_leases(Vec::new()))],
    }),
    calls("alone: Namespaces/List of 300 namespaces of 200 KiB", || Plan {
        before: (0..300).map(|n| create_namespace(&format!("a{n}"), 50, 4000)).collect(),
        loads: vec![load(Protocol::Grpc, 64, true, |_, _| list_namespaces())],
    }),
    calls("grpc: AddResource of ids of 100 KiB", || Plan {
        before: (0..32).map(|n| create_lease(&n.to_string(), 1, 1)).collect(),
        loads: vec![
            load(Protocol::Grpc, 16, true, |n, _| {
                add_resource(&(n % 32).to_string(), format!("{n:050000}{n:050000}"))
            }),
            load(Protocol::Grpc, 16, true, |n, _| list_resources(&(n % 32).to_string())),
        ],
    }),
    calls("grpc: Gets of 15 MiB, replies never read", || Plan {
        before: vec![create_image(image("large", 1, 1, 15 << 20))],
        loads: vec![load(Protocol::Grpc, 64, false, |_, _| get_image("large"))],
    }),
    calls("grpc: one label of an image of 15 MiB", || Plan {
        before: vec![create_image(image("large", 1, 1, 15 << 20))],
        loads: vec![load(Protocol::Grpc, 64, false, |n, _| {
            let mut labelled = image("large", 0, 0, 0);
            labelled.labels.insert("l".into(), n.to_string());
            update_image(labelled, vec!["labels.l".into()])
        })],
    }),
    calls("grpc: masks of 20,000 paths", || Plan {
        before: vec![create_image(image("masked", 5000, 1, 0))],
        loads: vec![load(Protocol::Grpc, 16, true, |_, _| {
            update_image(image("masked", 5000, 2, 0), vec!["labels".into(); 20_000])
        })],
    }),
    calls("grpc: 64 images of 200 KiB at once on a connection", || Plan {
        before: Vec::new(),
        loads: vec![Load {
            in_flight: 64,
            ..load(Protocol::Grpc, 4, true, |n, _| {
                create_image(image(&format!("medium-{}", n % 64), 1, 1, 200 << 10))
            })
        }],
    }),
    calls("grpc: images of 4 MiB made again and again", || Plan {
        before: Vec::new(),
        loads: vec![load(Protocol::Grpc, 8, true, |n, _| {
            let name = format!("again-{}", n % 4);
            if n % 8 < 4 {
                create_image(image(&name, 1, 1, 4 << 20))
            } else {
                super::super::requests::delete_image(&name, false)
            }
        })],
    }),
    calls("grpc: lists in new namespaces", || Plan {
        before: Vec::new(),
        loads: vec![load(Protocol::Grpc, 32, true, |n, _| {
            list_images(Vec::new()).within(format!("new-{n}"))
        })],
    }),
    calls("ttrpc: lists in new namespaces", || Plan {
        before: Vec::new(),
        loads: vec![load(Protocol::Ttrpc, 32, true, |n, _| {
            list_images(Vec::new()).within(format!("new-{n}"))
        })],
    }),
];

fn load(
    protocol: Protocol,
    connections: usize,
    reads: bool,
    request: fn(u64, &Parameters) -> Request,
) -> Load {
    let parameters = Parameters::default();
    Load { protocol, connections, in_flight: 8, reads, request, parameters }
}
