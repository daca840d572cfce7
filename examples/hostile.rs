//! Lays siege to a daemon: one attack after the other, each from many connections, while another client
//! goes on with its Gets. `scripts/hostile` runs it; it prints a line for each attack.
//!
//! ```text
//! hostile IMAGES_SOCK IMAGES_SOCK_TTRPC PID SECONDS
//! ```
//!
//! Bytes are written by hand: no client library would send these.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{CreateImageRequest, GetImageRequest, Image, ListImagesRequest};
use protobuf::{Message, MessageField};

const IMAGES: &str = "containerd.services.images.v1.Images";
const STORED: usize = 1000;

struct Siege {
    grpc: PathBuf,
    ttrpc: PathBuf,
    over: AtomicBool,
    /// What was done to the daemon: connections, frames.
    blows: AtomicU64,
}

type Attack = fn(&Siege) -> io::Result<()>;

/// Name, connections at a time, what each does again and again.
const ATTACKS: &[(&str, usize, Attack)] = &[
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
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [grpc, ttrpc, pid, seconds, only @ ..] = args.as_slice() else {
        eprintln!("usage: hostile IMAGES_SOCK IMAGES_SOCK_TTRPC PID SECONDS [PART OF A NAME]");
        std::process::exit(2);
    };
    let time = Duration::from_secs(seconds.parse().expect("SECONDS"));
    fill(Path::new(ttrpc));
    println!(
        "| attack | blows | RssAnon max, MiB | p99 of a Get, ms: quiet | under attack | ratio | after |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut dead = false;
    for (name, count, attack) in ATTACKS {
        if only.first().is_some_and(|part| !name.contains(part.as_str())) || dead {
            continue;
        }
        let quiet = gets(Path::new(ttrpc), time / 3);
        let siege = Siege {
            grpc: grpc.into(),
            ttrpc: ttrpc.into(),
            over: AtomicBool::new(false),
            blows: AtomicU64::new(0),
        };
        let (busy, memory) = std::thread::scope(|scope| {
            for _ in 0..*count {
                scope.spawn(|| {
                    while !siege.over.load(Ordering::Relaxed) {
                        if attack(&siege).is_err() {
                            // The daemon has closed the connection: no reason to spin.
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                });
            }
            let memory = scope.spawn(|| {
                let mut most = 0;
                while !siege.over.load(Ordering::Relaxed) {
                    most = most.max(anonymous(pid));
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            });
            let busy = gets(Path::new(ttrpc), time);
            siege.over.store(true, Ordering::Relaxed);
            (busy, memory.join().unwrap())
        });
        let after = gets(Path::new(ttrpc), Duration::from_millis(300));
        dead = after.is_none();
        let ms = |p99: Option<Duration>| {
            p99.map_or("none".into(), |t| format!("{:.2}", t.as_secs_f64() * 1e3))
        };
        let ratio = quiet.zip(busy).map_or(f64::NAN, |(q, b)| b.as_secs_f64() / q.as_secs_f64());
        let blows = siege.blows.load(Ordering::Relaxed);
        let after = if dead { "DEAD" } else { "serves" };
        println!(
            "| {name} | {blows} | {:.1} | {} | {} | {ratio:.1} | {after} |",
            memory as f64 / 1024.0,
            ms(quiet),
            ms(busy)
        );
    }
    std::process::exit(i32::from(dead));
}

impl Siege {
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

fn noise(count: usize) -> Vec<u8> {
    let mut state = Instant::now().elapsed().as_nanos() as u64 | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(count)
    .collect()
}

/// The memory of the daemon that is nobody's file, in KiB.
fn anonymous(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Gets for a while, one every millisecond; how long 99 of 100 took at most. `None` when one fails.
fn gets(path: &Path, time: Duration) -> Option<Duration> {
    // Where connections are at their limit, it is tried again: this client came too late.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match try_gets(path, time) {
            Ok(p99) => return Some(p99),
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return None,
        }
    }
}

fn try_gets(path: &Path, time: Duration) -> io::Result<Duration> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut took, begin) = (Vec::new(), Instant::now());
    for number in 0.. {
        let since = Instant::now();
        stream.write_all(&ttrpc_get(2 * number + 1))?;
        let mut head = [0; 10];
        stream.read_exact(&mut head)?;
        stream
            .read_exact(&mut vec![0; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize])?;
        took.push(since.elapsed());
        if begin.elapsed() > time {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    took.sort();
    Ok(took[took.len() * 99 / 100])
}

fn image(name: String) -> Vec<u8> {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: format!("sha256:{}", "a".repeat(64)),
        size: 1,
        ..Default::default()
    };
    let image = Image {
        name,
        labels: [("filler".to_owned(), "abcdefgh".repeat(40))].into(),
        target: MessageField::some(target),
        ..Default::default()
    };
    let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
    request.write_to_bytes().unwrap()
}

/// Images for the attacks to ask for.
fn fill(path: &Path) {
    let mut stream = UnixStream::connect(path).expect("the daemon");
    for number in 0..STORED as u32 {
        stream
            .write_all(&ttrpc_call(2 * number + 1, "Create", &image(number.to_string())))
            .unwrap();
        let mut head = [0; 10];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
}

fn large(size: usize) -> Vec<u8> {
    image("x".repeat(size))
}

fn filters(filters: Vec<String>) -> Vec<u8> {
    ListImagesRequest { filters, ..Default::default() }.write_to_bytes().unwrap()
}

fn get() -> Vec<u8> {
    GetImageRequest { name: "7".into(), ..Default::default() }.write_to_bytes().unwrap()
}

fn ttrpc_get(stream: u32) -> Vec<u8> {
    ttrpc_call(stream, "Get", &get())
}

fn ttrpc_list(stream: u32) -> Vec<u8> {
    ttrpc_call(stream, "List", &[])
}

fn ttrpc_call(stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    let mut request = ttrpc::Request::new();
    request.service = IMAGES.into();
    request.method = method.into();
    request.payload = message.to_vec();
    request.metadata.push(ttrpc::proto::KeyValue {
        key: "containerd-namespace-ttrpc".into(),
        value: "n".into(),
        ..Default::default()
    });
    let payload = request.write_to_bytes().unwrap();
    let head = ttrpc::proto::MessageHeader::new_request(stream, payload.len() as u32);
    [Vec::from(head), payload].concat()
}

/// A frame of HTTP/2.
fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first; so much of each reply may be on its way.
fn opening(window: u32) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    [PREFACE.to_vec(), h2(4, 0, 0, &settings)].concat()
}

/// A header that is not indexed.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

fn head(method: &str) -> Vec<u8> {
    let path = format!("/{IMAGES}/{method}");
    [
        // POST, http, and a path by the names that HPACK knows.
        &[0x83, 0x86, 0x04, path.len() as u8][..],
        path.as_bytes(),
        &literal(b":authority", b"localhost"),
        &literal(b"content-type", b"application/grpc"),
        &literal(b"containerd-namespace", b"n"),
    ]
    .concat()
}

fn grpc_call(stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    [h2(1, 4, stream, &head(method)), h2(0, 1, stream, &framed)].concat()
}

fn grpc_get(stream: u32) -> Vec<u8> {
    grpc_call(stream, "Get", &get())
}

fn grpc_list(stream: u32) -> Vec<u8> {
    grpc_call(stream, "List", &[])
}

/// One call with a message of many frames, sent whatever the daemon has room for.
fn grpc_large(message: &[u8]) -> Vec<u8> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let mut all = [opening(0), h2(1, 4, 1, &head("Create"))].concat();
    for piece in framed.chunks(16 << 10) {
        all.extend(h2(0, 0, 1, piece));
    }
    all
}
