//! Bytes that are not what the protocols want, or not in the way they want it, and more of everything
//! than a connection should have.

use super::super::frames::*;
use super::{Attack, bytes};

pub const ATTACKS: &[Attack] = &[
    bytes("ttrpc: garbage", 16, |s| s.say(&s.ttrpc, &noise(4096))),
    bytes("grpc: garbage", 16, |s| s.say(&s.grpc, &noise(4096))),
    bytes("grpc: garbage behind the preface", 16, |s| {
        s.say(&s.grpc, &[PREFACE, &noise(4096)].concat())
    }),
    bytes("ttrpc: HTTP", 16, |s| s.say(&s.ttrpc, PREFACE)),
    bytes("ttrpc: frames of 0xffffffff", 16, |s| s.say(&s.ttrpc, &[0xff; 64])),
    bytes("grpc: frames of 0xffffff", 16, |s| s.say(&s.grpc, &[PREFACE, &[0xff; 64]].concat())),
    bytes("ttrpc: half a frame, then silence", 900, |s| s.hold(&s.ttrpc, &[0, 0, 1, 0, 0, 0])),
    bytes("grpc: half a frame, then silence", 900, |s| {
        s.hold(&s.grpc, &[PREFACE, &[0, 1, 0, 1, 4, 0]].concat())
    }),
    bytes("ttrpc: 10,000 connections", 64, |s| s.crowd(&s.ttrpc)),
    bytes("grpc: 10,000 connections", 64, |s| s.crowd(&s.grpc)),
    bytes("ttrpc: lists, replies never read", 100, |s| s.pour(&s.ttrpc, &[], ttrpc_list)),
    bytes("grpc: lists, replies never read", 100, |s| s.pour(&s.grpc, &opening(0), grpc_list)),
    bytes("ttrpc: 1,000 calls at once", 16, |s| s.burst(&s.ttrpc, &[], ttrpc_get)),
    bytes("grpc: 1,000 calls at once", 16, |s| s.burst(&s.grpc, &opening(1 << 30), grpc_get)),
    bytes("grpc: calls begun and reset", 8, |s| {
        s.pour(&s.grpc, &opening(1 << 20), |stream| {
            [grpc_get(stream), h2(3, 0, stream, &8u32.to_be_bytes())].concat()
        })
    }),
    bytes("grpc: lists begun and reset", 8, |s| {
        s.pour(&s.grpc, &opening(1 << 20), |stream| {
            [grpc_list(stream), h2(3, 0, stream, &8u32.to_be_bytes())].concat()
        })
    }),
    bytes("ttrpc: calls, then gone", 16, |s| {
        s.say(&s.ttrpc, &(0..200).flat_map(|i| ttrpc_list(2 * i + 1)).collect::<Vec<u8>>())
    }),
    bytes("ttrpc: requests of 4 MiB", 32, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "Create", &large((4 << 20) - 4096)))
    }),
    bytes("grpc: requests of 16 MiB, without regard for the window", 32, |s| {
        s.ask(&s.grpc, &grpc_large(&large((16 << 20) - 4096)))
    }),
    bytes("ttrpc: a list of 2 million empty filters", 16, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &[0x0a, 0].repeat((2 << 20) - 2048)))
    }),
    bytes("grpc: endless headers (CONTINUATION)", 16, |s| s.headers()),
    bytes("grpc: pings", 8, |s| s.pour(&s.grpc, &opening(0), |_| h2(6, 0, 0, &[0; 8]))),
    bytes("grpc: settings", 8, |s| s.pour(&s.grpc, &opening(0), |_| h2(4, 0, 0, &[]))),
    bytes("ttrpc: slow regular expressions", 64, |s| {
        let filter = "labels.filler~=\"([a-q][^u-z]{13}){40}x{500}\"".to_owned();
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &filters(vec![filter; 20])))
    }),
    bytes("ttrpc: regular expressions by the thousand", 16, |s| {
        s.ask(
            &s.ttrpc,
            &ttrpc_call(1, "List", &filters(vec!["name~=\"[a-c]{3}x.*y\"".into(); 1000])),
        )
    }),
    bytes("ttrpc: selectors by the million", 16, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &filters(vec![vec!["a"; 2_000_000].join(",")])))
    }),
    bytes("grpc: calls begun, messages never sent", 100, |s| {
        s.pour(&s.grpc, &opening(0), |stream| grpc_begun(stream, 0))
    }),
    bytes("grpc: calls begun, with 12 KiB of headers", 100, |s| {
        s.pour(&s.grpc, &opening(0), |stream| grpc_begun(stream, 12 << 10))
    }),
    bytes("grpc: requests of 16 MiB that stop in the beginning", 900, |s| {
        s.hold(&s.grpc, &grpc_waiting())
    }),
    bytes("ttrpc: requests of 4 MiB that stop in the beginning", 900, |s| {
        s.hold(&s.ttrpc, &ttrpc_waiting())
    }),
    bytes("grpc: messages in frames of one byte", 16, |s| {
        s.pour(&s.grpc, &opening(0), grpc_crumbs)
    }),
    bytes("grpc: Gets on 900 connections, replies never read", 900, |s| {
        s.pour(&s.grpc, &opening(1 << 30), grpc_get)
    }),
    bytes("ttrpc: Gets on 900 connections, replies never read", 900, |s| {
        s.pour(&s.ttrpc, &[], ttrpc_get)
    }),
    bytes("grpc: Version, replies never read", 100, |s| s.pour(&s.grpc, &opening(0), grpc_version)),
    bytes("grpc: images with 60,000 labels", 32, |s| s.ask(&s.grpc, &grpc_large(&labels(60_000)))),
    bytes("ttrpc: images with 60,000 labels", 32, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "Create", &labels(60_000)))
    }),
    bytes("ttrpc: a million entries of metadata", 32, |s| {
        s.ask(&s.ttrpc, &ttrpc_metadata(1_000_000))
    }),
    bytes("ttrpc: lists under one stream id", 16, |s| s.pour(&s.ttrpc, &[], |_| ttrpc_list(1))),
];
