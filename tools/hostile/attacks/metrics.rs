//! The socket of metrics: connections that hold on, and scrapes without end.

use std::io::{Read, Write};

use super::{Attack, bytes};

pub const ATTACKS: &[Attack] = &[
    bytes("metrics: connections that say nothing", 64, |s| s.hold(&s.metrics, b"")),
    bytes("metrics: half a request, then silence", 64, |s| {
        s.hold(&s.metrics, b"GET /metrics HTTP/1.1\r\nHost: ")
    }),
    bytes("metrics: scrapes whose answers are not read", 64, |s| {
        s.hold(&s.metrics, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    }),
    bytes("metrics: scrapes without end", 16, |s| {
        let mut stream = s.connect(&s.metrics)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }),
];
