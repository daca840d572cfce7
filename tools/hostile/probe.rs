//! What a daemon under attack costs others: how long another process's calls wait, and what the daemon
//! takes of memory and of the disk.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lmdb_images::api::images::{DeleteImageRequest, ListImagesRequest};
use protobuf::Message;

use super::frames::{get as get_request, image, ttrpc_call_in};

/// How many images the daemon has that the attacks ask for, and as many again for the probes.
const STORED: usize = 1000;

/// The namespace of the probes: what attackers leave does not make their Lists longer.
const NAMESPACE: &str = "probe";

/// The longest that a probe waits.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon that is watched.
#[derive(Debug, Clone)]
pub struct Watched {
    pub ttrpc: PathBuf,
    /// Its socket of metrics, if it has one.
    pub metrics: Option<PathBuf>,
    pub pid: u32,
    /// The folder with its store, `root`, and its log, `log`.
    pub folder: PathBuf,
    /// The ttrpc socket of a daemon that is not attacked.
    pub other: PathBuf,
}

/// What was seen of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// The most memory (RssAnon), in bytes.
    pub memory: u64,
    /// By how much its data file and its log grew, in bytes.
    pub data_growth: u64,
    pub log_growth: u64,
    pub get: Waits,
    pub create: Waits,
    pub list: Waits,
    pub scrape: Waits,
    /// Gets of the other daemon.
    pub elsewhere: Waits,
}

/// How long each call of a kind waited.
#[derive(Debug, Default)]
pub struct Waits {
    sorted: Vec<Duration>,
    /// The first answer that was an error.
    pub refused: Option<String>,
    /// Calls that failed, and were no longer tried.
    pub has_failed: bool,
}

impl Waits {
    pub fn p99(&self) -> Option<Duration> {
        let index = (self.sorted.len() * 99 / 100).min(self.sorted.len().saturating_sub(1));
        self.sorted.get(index).copied()
    }

    pub fn longest(&self) -> Option<Duration> {
        self.sorted.last().copied()
    }
}

impl Watched {
    /// Watches until it is `over`.
    pub fn watch(&self, over: &AtomicBool) -> Seen {
        let size = |file: &str| std::fs::metadata(self.folder.join(file)).map_or(0, |m| m.len());
        let (data, log) = (size("root/data.mdb"), size("log"));
        let seen = std::thread::scope(|scope| {
            let memory = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(anonymous(self.pid));
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            });
            let gets = scope.spawn(|| probe(&self.ttrpc, over, 1, get));
            let creates = scope.spawn(|| probe(&self.ttrpc, over, 5, create));
            let lists = scope.spawn(|| probe(&self.ttrpc, over, 20, list));
            let elsewhere = scope.spawn(|| probe(&self.other, over, 1, get));
            let scrapes = scope.spawn(|| match &self.metrics {
                Some(path) => probe(path, over, 200, scrape),
                None => Waits::default(),
            });
            Seen {
                memory: memory.join().unwrap(),
                get: gets.join().unwrap(),
                create: creates.join().unwrap(),
                list: lists.join().unwrap(),
                scrape: scrapes.join().unwrap(),
                elsewhere: elsewhere.join().unwrap(),
                ..Seen::default()
            }
        });
        let data_growth = size("root/data.mdb").saturating_sub(data);
        Seen { data_growth, log_growth: size("log").saturating_sub(log), ..seen }
    }

    /// Whether a Get is answered.
    pub fn serves(&self) -> bool {
        {
            let seen = probe(&self.ttrpc, &AtomicBool::new(true), 1, get);
            !seen.has_failed && seen.refused.is_none()
        }
    }
}

/// The memory of the daemon that is no file's, in bytes.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: Option<u64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default() << 10
}

/// A probe's call of a number, on a connection of its own kind: how long it waited.
type Call = fn(&Path, &mut Option<UnixStream>, u32) -> io::Result<Duration>;

/// Calls at least once, and then every `pause` milliseconds. A connection that is refused or closed,
/// as there are too many, is made again for a while.
fn probe(path: &Path, over: &AtomicBool, pause: u64, call: Call) -> Waits {
    let (mut waits, mut stream, mut last) = (Waits::default(), None, Instant::now());
    for number in 0.. {
        match call(path, &mut stream, number) {
            Ok(waited) => {
                waits.sorted.push(waited);
                last = Instant::now();
            }
            Err(e) if e.kind() == io::ErrorKind::Other => {
                waits.refused.get_or_insert(e.to_string());
                last = Instant::now();
            }
            Err(_) if last.elapsed() < TIMEOUT => stream = None,
            Err(_) => {
                waits.has_failed = true;
                break;
            }
        }
        let has_seen = !waits.sorted.is_empty() || waits.refused.is_some();
        if over.load(Ordering::Relaxed) && has_seen {
            break;
        }
        std::thread::sleep(Duration::from_millis(pause));
    }
    waits.sorted.sort();
    waits
}

fn get(path: &Path, stream: &mut Option<UnixStream>, number: u32) -> io::Result<Duration> {
    ttrpc(path, stream, &call(2 * number + 1, "Get", &get_request()))
}

/// Creates an image, and deletes it, which is not timed: the store stays as it is.
fn create(path: &Path, stream: &mut Option<UnixStream>, number: u32) -> io::Result<Duration> {
    let name = format!("new-{number}");
    let request = image(name.clone());
    let waited = ttrpc(path, stream, &call(4 * number + 1, "Create", &request))?;
    let request = DeleteImageRequest { name, ..Default::default() };
    ttrpc(path, stream, &call(4 * number + 3, "Delete", &request.write_to_bytes().unwrap()))?;
    Ok(waited)
}

/// Lists the thousand images of the probes.
fn list(path: &Path, stream: &mut Option<UnixStream>, number: u32) -> io::Result<Duration> {
    let request = ListImagesRequest::new().write_to_bytes().unwrap();
    ttrpc(path, stream, &call(2 * number + 1, "List", &request))
}

fn call(stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    ttrpc_call_in(NAMESPACE, stream, method, message)
}

/// Sends a call and waits for its answer. An answer that is an error is an error of the kind `Other`.
fn ttrpc(path: &Path, stream: &mut Option<UnixStream>, request: &[u8]) -> io::Result<Duration> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let connected = UnixStream::connect(path)?;
            connected.set_read_timeout(Some(TIMEOUT))?;
            stream.insert(connected)
        }
    };
    let since = Instant::now();
    stream.write_all(request)?;
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    let waited = since.elapsed();
    let response = ttrpc::Response::parse_from_bytes(&payload)?;
    match response.status.into_option().filter(|status| status.code() != ttrpc::Code::OK) {
        Some(status) => Err(io::Error::other(format!("{:?}: {}", status.code(), status.message))),
        None => Ok(waited),
    }
}

fn scrape(path: &Path, _: &mut Option<UnixStream>, _: u32) -> io::Result<Duration> {
    let since = Instant::now();
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    if text.starts_with(b"HTTP/1.1 200") {
        Ok(since.elapsed())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Makes the images that attacks and probes ask for. Those that are there already stay.
pub fn fill(path: &Path) {
    let mut stream = None;
    for number in 0..STORED as u32 {
        for (at, namespace) in ["n", NAMESPACE].into_iter().enumerate() {
            let name = number.to_string();
            let id = 4 * number + 2 * at as u32 + 1;
            let request = ttrpc_call_in(namespace, id, "Create", &image(name));
            match ttrpc(path, &mut stream, &request) {
                Err(e) if e.kind() == io::ErrorKind::Other => {}
                made => drop(made.unwrap()),
            }
        }
    }
}
