//! Lays siege to a daemon: one attack after the other, each from many connections, while another client
//! goes on with its Gets. `scripts/soak/hostile` runs it; it prints a line for each attack.
//!
//! ```text
//! hostile siege GRPC_SOCK IMAGES_SOCK_TTRPC PID OTHER_SOCK_TTRPC SECONDS [PART OF A NAME]
//! ```
//!
//! What is measured is the daemon, not the scheduler. So the attackers are a process of their
//! own that runs when no other process wants to (SCHED_IDLE: at the lowest nice value, a hundred threads still
//! weigh more than the daemon); and another client goes on with Gets of another daemon meanwhile, which
//! nothing attacks: what holds those up is the machine.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod attacks;
mod frames;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Siege};
use frames::{image, ttrpc_call, ttrpc_get};

const STORED: usize = 1000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["siege", grpc, ttrpc, pid, other, seconds, part @ ..] => {
            let time = Duration::from_secs(seconds.parse().expect("SECONDS"));
            let besieged = Besieged { grpc, ttrpc, pid, other };
            let part = part.first().unwrap_or(&"");
            std::process::exit(i32::from(!siege(&besieged, time, part)));
        }
        ["attack", name, grpc, ttrpc] => {
            let (_, count, attack) = ATTACKS.iter().find(|(n, ..)| n == name).expect("an attack");
            let siege = Siege::new(grpc.into(), ttrpc.into());
            // The parent process closes its end.
            let wait = || drop(io::stdin().read(&mut [0]));
            println!("{}", siege.lay(*count, *attack, wait));
        }
        _ => {
            eprintln!(
                "usage: hostile siege GRPC_SOCK TTRPC_SOCK PID OTHER_TTRPC_SOCK SECONDS [PART OF A NAME]"
            );
            std::process::exit(2);
        }
    }
}

/// The attacked daemon, and the other one.
struct Besieged<'a> {
    grpc: &'a str,
    ttrpc: &'a str,
    pid: &'a str,
    /// Another daemon's ttrpc socket.
    other: &'a str,
}

/// Attacks whose names have `part` in them; whether the daemon serves at the end.
fn siege(besieged: &Besieged<'_>, time: Duration, part: &str) -> bool {
    let &Besieged { grpc, ttrpc, pid, other } = besieged;
    let (path, other) = (Path::new(ttrpc), Path::new(other));
    fill(path);
    fill(other);
    println!(
        "| attack | blows | RssAnon max, MiB | p99 of a Get, ms: quiet | under attack | ratio | of another daemon | after |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, ..) in ATTACKS.iter().filter(|(name, ..)| name.contains(part)) {
        let quiet = gets(path, time / 3);
        let mut attackers = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["attack", name, grpc, ttrpc])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let over = AtomicBool::new(false);
        let (busy, elsewhere, memory) = std::thread::scope(|scope| {
            let memory = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(anonymous(pid));
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            });
            let elsewhere = scope.spawn(|| gets(other, time));
            let busy = gets(path, time);
            over.store(true, Ordering::Relaxed);
            (busy, elsewhere.join().unwrap(), memory.join().unwrap())
        });
        drop(attackers.stdin.take());
        let mut blows = String::new();
        attackers.stdout.take().unwrap().read_to_string(&mut blows).unwrap();
        attackers.wait().unwrap();
        let serves = gets(path, Duration::from_millis(300)).is_some();
        let ms = |p99: Option<Duration>| {
            p99.map_or("none".into(), |t| format!("{:.2}", t.as_secs_f64() * 1e3))
        };
        let ratio = quiet.zip(busy).map_or(f64::NAN, |(q, b)| b.as_secs_f64() / q.as_secs_f64());
        println!(
            "| {name} | {} | {:.1} | {} | {} | {ratio:.1} | {} | {} |",
            blows.trim(),
            memory as f64 / 1024.0,
            ms(quiet),
            ms(busy),
            ms(elsewhere),
            if serves { "serves" } else { "DEAD" }
        );
        if !serves {
            return false;
        }
    }
    true
}

/// The anonymous memory of the daemon, in KiB.
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

/// Images for the attacks to ask for. Those that are there already stay.
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
