//! Lays siege to a daemon: one attack after the other, each from many connections, while another client
//! goes on with its calls. `scripts/soak/hostile` runs it; it prints a line for each attack.
//!
//! ```text
//! hostile siege GRPC_SOCK TTRPC_SOCK METRICS_SOCK FOLDER PID OTHER_TTRPC_SOCK SECONDS [PART OF A NAME]
//! ```
//!
//! The siege measures the daemon, not the scheduler. So the attackers are a process of their own with the
//! policy SCHED_IDLE: at the lowest nice value, a hundred threads still weigh more than the daemon. And a
//! client goes on with Gets of a second daemon, which is not attacked: what they wait longer than before,
//! they wait for the machine.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod attacks;
#[path = "../../tests/support/client.rs"]
mod client;
mod frames;
mod load;
mod probe;
mod report;
mod requests;

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use attacks::{Attack, Siege};
use load::{READY, Sockets};
use probe::{Seen, Watched, fill};
use report::Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["siege", grpc, ttrpc, metrics, folder, pid, other, seconds, part @ ..] => {
            let metrics_socket = Path::new(metrics).exists().then(|| metrics.into());
            let watched = Watched {
                ttrpc: ttrpc.into(),
                metrics: metrics_socket,
                pid: pid.parse().expect("PID"),
                folder: folder.into(),
                other: other.into(),
            };
            let time = Duration::from_secs(seconds.parse().expect("SECONDS"));
            let sockets = [*grpc, *ttrpc, *metrics];
            let is_chosen = |name: &str| part.is_empty() || part.iter().any(|p| name.contains(p));
            std::process::exit(i32::from(!siege(&watched, sockets, time, is_chosen)));
        }
        ["attack", name, grpc, ttrpc, metrics] => {
            let attack = attacks::all().find(|attack| attack.name == *name).expect("an attack");
            let sockets =
                Sockets { grpc: grpc.into(), ttrpc: ttrpc.into(), metrics: metrics.into() };
            // The siege closes its end.
            let wait = || drop(io::stdin().read(&mut [0]));
            println!("{}", Siege::new(&sockets).lay(attack, wait));
        }
        _ => {
            eprintln!(
                "usage: hostile siege GRPC_SOCK TTRPC_SOCK METRICS_SOCK FOLDER PID OTHER_TTRPC_SOCK SECONDS [PART OF A NAME]..."
            );
            std::process::exit(2);
        }
    }
}

/// Attacks whose names are chosen; whether the daemon serves at the end.
fn siege(
    watched: &Watched,
    sockets: [&str; 3],
    time: Duration,
    is_chosen: impl Fn(&str) -> bool,
) -> bool {
    fill(&watched.ttrpc);
    fill(&watched.other);
    let mut report = Report::begin();
    for attack in attacks::all().filter(|attack| is_chosen(attack.name)) {
        let quiet = watch_for(watched, time / 3);
        let (seen, blows) = attacked(watched, attack, sockets, time);
        let serves = watched.serves();
        report.add(attack, &blows, &quiet, &seen, serves);
        if !serves {
            return false;
        }
    }
    report.end();
    true
}

/// Watches for a while.
fn watch_for(watched: &Watched, time: Duration) -> Seen {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| watched.watch(&over));
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        seen.join().unwrap()
    })
}

/// Watches while attackers do what they do, and how often they did it.
fn attacked(
    watched: &Watched,
    attack: &Attack,
    sockets: [&str; 3],
    time: Duration,
) -> (Seen, String) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| watched.watch(&over));
        let mut attackers = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["attack", attack.name])
            .args(sockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(attackers.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), READY, "what attackers say first");
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let seen = seen.join().unwrap();
        drop(attackers.stdin.take());
        let mut blows = String::new();
        said.read_to_string(&mut blows).unwrap();
        attackers.wait().unwrap();
        (seen, blows)
    })
}
