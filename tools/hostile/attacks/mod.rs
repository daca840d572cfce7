//! The attacks: what each attacker does on its connection, again and again. One file a subject.

mod collector;
mod events;
mod filters;
mod metrics;
mod protocol;
mod records;
mod together;
mod transfer;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::frames::*;
use super::load::{self, Answered, Plan, READY, Sockets};

/// One attack.
pub struct Attack {
    pub name: &'static str,
    /// Whether it asks only, so that the store's file must not grow by much beside it.
    pub reads: bool,
    how: How,
}

enum How {
    /// This many connections do this again and again.
    Bytes(usize, fn(&Siege) -> io::Result<()>),
    /// Clients that speak the protocols well.
    Calls(fn() -> Plan),
}

const fn bytes(
    name: &'static str,
    connections: usize,
    blow: fn(&Siege) -> io::Result<()>,
) -> Attack {
    Attack { name, reads: false, how: How::Bytes(connections, blow) }
}

const fn calls(name: &'static str, plan: fn() -> Plan) -> Attack {
    Attack { name, reads: false, how: How::Calls(plan) }
}

/// The same, of Lists with writers beside.
const fn reads(name: &'static str, plan: fn() -> Plan) -> Attack {
    Attack { name, reads: true, how: How::Calls(plan) }
}

/// All of them. The part of a name before the colon says on which sockets: `grpc` on all of gRPC, `ttrpc`
/// on that of ttrpc, `alone` where the daemon itself does the work and not a containerd, `metrics` on that of
/// metrics.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [
        protocol::ATTACKS,
        transfer::ATTACKS,
        events::ATTACKS,
        records::ATTACKS,
        filters::ATTACKS,
        collector::ATTACKS,
        metrics::ATTACKS,
        together::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

/// The sockets under siege, and how far it is.
pub struct Siege {
    pub grpc: PathBuf,
    pub ttrpc: PathBuf,
    pub metrics: PathBuf,
    over: AtomicBool,
    /// What was done to the daemon: connections, frames.
    blows: AtomicU64,
}

impl Siege {
    pub fn new(sockets: &Sockets) -> Self {
        let Sockets { grpc, ttrpc, metrics } = sockets.clone();
        Self { grpc, ttrpc, metrics, over: AtomicBool::new(false), blows: AtomicU64::new(0) }
    }

    /// Runs the attack until `wait` returns; gives how many blows there were.
    pub fn lay(&self, attack: &Attack, wait: impl FnOnce()) -> String {
        match attack.how {
            How::Bytes(connections, blow) => self.blows(connections, blow, wait),
            How::Calls(plan) => self.calls(plan(), wait),
        }
    }

    fn blows(
        &self,
        connections: usize,
        blow: fn(&Self) -> io::Result<()>,
        wait: impl FnOnce(),
    ) -> String {
        println!("{READY}");
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| {
                    while self.is_on() {
                        if blow(self).is_err() {
                            // The daemon has closed the connection: no reason to spin.
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                });
            }
            wait();
            self.over.store(true, Ordering::Relaxed);
        });
        self.blows.load(Ordering::Relaxed).to_string()
    }

    fn calls(&self, plan: Plan, wait: impl FnOnce()) -> String {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let sockets = Sockets {
            grpc: self.grpc.clone(),
            ttrpc: self.ttrpc.clone(),
            metrics: self.metrics.clone(),
        };
        let answered = Arc::new(Answered::default());
        let counted = Arc::clone(&answered);
        runtime.spawn(async move { load::run(&sockets, plan, counted).await });
        wait();
        runtime.shutdown_background();
        let all = answered.all.load(Ordering::Relaxed);
        format!("{all}, {} refused", answered.errors.load(Ordering::Relaxed))
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

    /// Sends 1,000 requests at once, and reads and drops the answers.
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

    /// Sends one request, however slowly the daemon reads it, and waits for the answer.
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
