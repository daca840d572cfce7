//! The attacks: what each attacker does on its connection, again and again.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::frames::*;

/// The sockets under siege, and how far it is.
pub struct Siege {
    pub grpc: PathBuf,
    pub ttrpc: PathBuf,
    over: AtomicBool,
    /// What was done to the daemon: connections, frames.
    blows: AtomicU64,
}

pub type Attack = fn(&Siege) -> io::Result<()>;

/// Name, connections at a time, what each does again and again.
pub const ATTACKS: &[(&str, usize, Attack)] = &[
    ("ttrpc: garbage", 16, |s| s.say(&s.ttrpc, &noise(4096))),
    ("grpc: garbage", 16, |s| s.say(&s.grpc, &noise(4096))),
    ("grpc: garbage behind the preface", 16, |s| s.say(&s.grpc, &[PREFACE, &noise(4096)].concat())),
    ("ttrpc: HTTP", 16, |s| s.say(&s.ttrpc, PREFACE)),
    ("ttrpc: frames of 0xffffffff", 16, |s| s.say(&s.ttrpc, &[0xff; 64])),
    ("grpc: frames of 0xffffff", 16, |s| s.say(&s.grpc, &[PREFACE, &[0xff; 64]].concat())),
    ("ttrpc: half a frame, then silence", 900, |s| s.hold(&s.ttrpc, &[0, 0, 1, 0, 0, 0])),
    ("grpc: half a frame, then silence", 900, |s| {
        s.hold(&s.grpc, &[PREFACE, &[0, 1, 0, 1, 4, 0]].concat())
    }),
    ("ttrpc: 10,000 connections", 64, |s| s.crowd(&s.ttrpc)),
    ("grpc: 10,000 connections", 64, |s| s.crowd(&s.grpc)),
    ("ttrpc: lists, replies never read", 100, |s| s.pour(&s.ttrpc, &[], ttrpc_list)),
    ("grpc: lists, replies never read", 100, |s| s.pour(&s.grpc, &opening(0), grpc_list)),
    ("ttrpc: 1,000 calls at once", 16, |s| s.burst(&s.ttrpc, &[], ttrpc_get)),
    ("grpc: 1,000 calls at once", 16, |s| s.burst(&s.grpc, &opening(1 << 30), grpc_get)),
    ("grpc: calls begun and reset", 8, |s| {
        s.pour(&s.grpc, &opening(1 << 20), |stream| {
            [grpc_get(stream), h2(3, 0, stream, &8u32.to_be_bytes())].concat()
        })
    }),
    ("grpc: lists begun and reset", 8, |s| {
        s.pour(&s.grpc, &opening(1 << 20), |stream| {
            [grpc_list(stream), h2(3, 0, stream, &8u32.to_be_bytes())].concat()
        })
    }),
    ("ttrpc: calls, then gone", 16, |s| {
        s.say(&s.ttrpc, &(0..200).flat_map(|i| ttrpc_list(2 * i + 1)).collect::<Vec<u8>>())
    }),
    ("ttrpc: requests of 4 MiB", 32, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "Create", &large((4 << 20) - 4096)))
    }),
    ("grpc: requests of 16 MiB, without regard for the window", 32, |s| {
        s.ask(&s.grpc, &grpc_large(&large((16 << 20) - 4096)))
    }),
    ("ttrpc: a list of 2 million empty filters", 16, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &[0x0a, 0].repeat((2 << 20) - 2048)))
    }),
    ("grpc: endless headers (CONTINUATION)", 16, |s| s.headers()),
    ("grpc: pings", 8, |s| s.pour(&s.grpc, &opening(0), |_| h2(6, 0, 0, &[0; 8]))),
    ("grpc: settings", 8, |s| s.pour(&s.grpc, &opening(0), |_| h2(4, 0, 0, &[]))),
    ("ttrpc: slow regular expressions", 64, |s| {
        let filter = "labels.filler~=\"([a-q][^u-z]{13}){40}x{500}\"".to_owned();
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &filters(vec![filter; 20])))
    }),
    ("ttrpc: regular expressions by the thousand", 16, |s| {
        s.ask(
            &s.ttrpc,
            &ttrpc_call(1, "List", &filters(vec!["name~=\"[a-c]{3}x.*y\"".into(); 1000])),
        )
    }),
    ("ttrpc: selectors by the million", 16, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "List", &filters(vec![vec!["a"; 2_000_000].join(",")])))
    }),
    ("grpc: calls begun, messages never sent", 100, |s| {
        s.pour(&s.grpc, &opening(0), |stream| grpc_begun(stream, 0))
    }),
    ("grpc: calls begun, with 12 KiB of headers", 100, |s| {
        s.pour(&s.grpc, &opening(0), |stream| grpc_begun(stream, 12 << 10))
    }),
    ("grpc: requests of 16 MiB that stop in the beginning", 900, |s| {
        s.hold(&s.grpc, &grpc_waiting())
    }),
    ("grpc: Version, replies never read", 100, |s| s.pour(&s.grpc, &opening(0), grpc_version)),
    ("grpc: images with 60,000 labels", 32, |s| s.ask(&s.grpc, &grpc_large(&labels(60_000)))),
    ("ttrpc: images with 60,000 labels", 32, |s| {
        s.ask(&s.ttrpc, &ttrpc_call(1, "Create", &labels(60_000)))
    }),
    ("ttrpc: a million entries of metadata", 32, |s| s.ask(&s.ttrpc, &ttrpc_metadata(1_000_000))),
];

impl Siege {
    pub fn new(grpc: PathBuf, ttrpc: PathBuf) -> Self {
        Self { grpc, ttrpc, over: AtomicBool::new(false), blows: AtomicU64::new(0) }
    }

    /// Runs `attack` on a number of connections until `wait` returns; returns the number of blows.
    pub fn lay(&self, count: usize, attack: Attack, wait: impl FnOnce()) -> u64 {
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    while self.is_on() {
                        if attack(self).is_err() {
                            // The daemon has closed the connection: no reason to spin.
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                });
            }
            wait();
            self.over.store(true, Ordering::Relaxed);
        });
        self.blows.load(Ordering::Relaxed)
    }

    fn connect(&self, path: &Path) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        self.blows.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    fn is_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Says something, waits for an answer for a moment, and goes.
    fn say(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.connect(path)?;
        stream.write_all(bytes)?;
        let _ = stream.read(&mut [0; 4096])?;
        Ok(())
    }

    /// Says something and is silent until all is over, or is disconnected.
    fn hold(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.connect(path)?;
        stream.write_all(bytes)?;
        self.until_closed(&mut stream)
    }

    fn until_closed(&self, stream: &mut UnixStream) -> io::Result<()> {
        while self.is_on() {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Opens one connection after the other and keeps them.
    fn crowd(&self, path: &Path) -> io::Result<()> {
        let mut all = Vec::new();
        while self.is_on() && all.len() < 157 {
            all.push(self.connect(path)?);
        }
        Ok(())
    }

    /// Asks and asks, and reads nothing.
    fn pour(&self, path: &Path, first: &[u8], ask: fn(u32) -> Vec<u8>) -> io::Result<()> {
        let mut stream = self.connect(path)?;
        stream.write_all(first)?;
        for number in 0.. {
            let asked = ask(2 * number + 1);
            let mut left = asked.as_slice();
            while !left.is_empty() {
                if !self.is_on() {
                    return Ok(());
                }
                match stream.write(left) {
                    Ok(count) => left = &left[count..],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            self.blows.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Asks 1,000 times at once, and reads what comes for a while.
    fn burst(&self, path: &Path, first: &[u8], ask: fn(u32) -> Vec<u8>) -> io::Result<()> {
        let mut stream = self.connect(path)?;
        let asked: Vec<u8> = (0..1000).flat_map(|number| ask(2 * number + 1)).collect();
        let mut reader = stream.try_clone()?;
        std::thread::scope(|scope| {
            scope.spawn(move || while !matches!(reader.read(&mut [0; 65536]), Ok(0) | Err(_)) {});
            stream.write_all(first)?;
            stream.write_all(&asked)?;
            self.blows.fetch_add(1000, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Asks once, however long it takes to be read, and waits for what comes.
    fn ask(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.connect(path)?;
        let mut left = bytes;
        while !left.is_empty() && self.is_on() {
            match stream.write(&left[..left.len().min(1 << 16)]) {
                Ok(count) => left = &left[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        while self.is_on() {
            match stream.read(&mut [0; 65536]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        Ok(())
    }

    /// Headers that never end.
    fn headers(&self) -> io::Result<()> {
        let mut stream = self.connect(&self.grpc)?;
        stream.write_all(&opening(0))?;
        stream.write_all(&h2(1, 0, 1, &head("Get")))?;
        let filler: Vec<u8> =
            (0..80).flat_map(|i| literal(format!("x{i}").as_bytes(), &[b'a'; 120])).collect();
        while self.is_on() {
            stream.write_all(&h2(9, 0, 1, &filler))?;
            self.blows.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
